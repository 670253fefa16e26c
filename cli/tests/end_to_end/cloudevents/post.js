// Posts CloudEvents with the JavaScript SDK, in every mode, and prints each answer: post.js URL TIME

const { CloudEvent, HTTP, Mode, emitterFor, httpTransport } = require("cloudevents");

const [url, time] = process.argv.slice(2);
const transport = httpTransport(url);
const binary = emitterFor(transport, { mode: Mode.BINARY });
const structured = emitterFor(transport, { mode: Mode.STRUCTURED });

function event(id, data, more) {
  return new CloudEvent({ id, source: "urn:javascript", type: "reading", time, data, ...more });
}

// The SDK reads batches, but makes none; this is what it makes of each event, in an array.
function batch(events) {
  const headers = { "content-type": "application/cloudevents-batch+json" };
  return transport({ headers, body: `[${events.map((event) => HTTP.structured(event).body).join(",")}]` });
}

async function main() {
  const subject = 'Gerät "7" €';
  const octets = { datacontenttype: "application/octet-stream" };
  const answers = [
    await structured(event("js-structured", { temp: 1.5, source: "mine" }, { subject })),
    // The SDK does not encode headers, and Node sends nothing in them but Latin-1.
    await binary(event("js-binary", { temp: 2.5, text: "é\n" }, { subject: "device-7", site: "here" })),
    await binary(event("js-text", "warm\n", { subject: "device-7", datacontenttype: "text/plain" })),
    await binary(event("js-bytes", new Uint8Array([0, 255]), octets)),
    await structured(event("js-base64", new Uint8Array([0, 255]), octets)),
    await batch([0, 1, 2].map((n) => event(`js-batch-${n}`, { temp: n }, { subject }))),
  ];
  for (const answer of answers) {
    console.log(answer.body);
  }
}

main();
