// usage: k6 run [-e URL=…] [-e KEY=…] [-e RATE=requests/s] [-e BATCH=events] [-e DEVICES=…] [-e DURATION=30s] ingest.k6.js
//
// The same open model as `lakehose bench ingest`, for who has k6: requests start when they are due, whether or not those
// before were answered. What is refused for now is not sent again: here it counts as failed.

import http from 'k6/http'
import { check } from 'k6'
import crypto from 'k6/crypto'

const url = __ENV.URL || 'http://127.0.0.1:8080/v1/events/events'
const batch = Number(__ENV.BATCH || 10)
const devices = Number(__ENV.DEVICES || 1000)
const headers = { 'content-type': 'application/x-ndjson' }
if (__ENV.KEY) headers.authorization = `Bearer ${__ENV.KEY}`

export const options = {
  scenarios: {
    devices: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE || 500),
      timeUnit: '1s',
      duration: __ENV.DURATION || '30s',
      preAllocatedVUs: devices,
    },
  },
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'p(99.9)', 'max'],
  thresholds: { checks: ['rate==1'], dropped_iterations: ['count==0'] },
}

function event() {
  const data = { temp: Math.round(Math.random() * 4000) / 100, battery: Math.floor(Math.random() * 101) }
  const device = `device-${String(__VU % devices).padStart(6, '0')}`
  return JSON.stringify({ id: crypto.hexEncode(crypto.randomBytes(16)), device_id: device, type: 'heartbeat', time: Date.now(), data })
}

export default function () {
  const body = Array.from({ length: batch }, event).join('\n')
  const answer = http.post(url, body, { headers })
  check(answer, { 'all are durable': (a) => a.status === 202 && a.json('accepted') === batch })
}
