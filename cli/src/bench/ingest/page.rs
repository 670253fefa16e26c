//! The report as a page that needs nothing else to be looked at.

use super::plot::{Curve, milliseconds};
use super::report::{Report, Step};
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:820px;margin:2rem auto;padding:0 1rem;color:#222}\
    table{border-collapse:collapse;width:100%}td,th{padding:.25rem .5rem;text-align:right;border-bottom:1px solid #ddd}\
    td:first-child,th:first-child{text-align:left}figure{margin:1.5rem 0}svg{max-width:100%;height:auto}";

/// The whole page.
pub fn render(report: &Report) -> anyhow::Result<String> {
    let Report { gateway, cores, load_before, load_after, devices, batch, seconds, held, steps } = report;
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>lakehose bench ingest</title>\
         <style>{STYLE}</style>\n<h1>{}</h1>\n<p>{devices} devices post {batch} events a request, {} connections are \
         open; {seconds} s a step; {cores} cores, load {load_before} before and {load_after} after. A latency counts \
         from the moment at which the request was due to its answer, which says that the events are durable.</p>\n",
        escape(gateway),
        held.connections,
    );
    if let (Some(without), Some(with)) = (held.bytes_without, held.bytes_with) {
        let (without, with) = (without as f64 / 1e6, with as f64 / 1e6);
        writeln!(page, "<p>Memory of the gateway: {without:.0} MB, with all connections {with:.0} MB.</p>")?;
    }
    page += &table(steps)?;
    for note in report.notes() {
        writeln!(page, "<p>{}</p>", escape(&note))?;
    }
    let loads: Vec<&Step> = steps.iter().filter(|step| step.offered_requests_per_second.is_some()).collect();
    for (title, svg) in plots(&loads)? {
        writeln!(page, "<figure><figcaption>{title}</figcaption>{svg}</figure>")?;
    }
    Ok(page)
}

fn table(steps: &[Step]) -> anyhow::Result<String> {
    let mut table = String::from("<table><tr><th>step<th>events/s<th>requests<th>failed");
    for (name, _) in steps.first().map(|step| step.latency_ms.named()).unwrap_or_default() {
        write!(table, "<th>{name} ms")?;
    }
    table += "<th>cores\n";
    for Step { name, events_per_second, requests, failed, latency_ms, gateway_cpu, .. } in steps {
        write!(table, "<tr><td>{}<td>{events_per_second:.0}<td>{requests}<td>{failed}", escape(name))?;
        for (_, value) in latency_ms.named() {
            write!(table, "<td>{value:.1}")?;
        }
        let cores = gateway_cpu.map_or("?".into(), |cores| format!("{cores:.2}"));
        writeln!(table, "<td>{cores}")?;
    }
    Ok(table + "</table>\n")
}

fn plots(loads: &[&Step]) -> anyhow::Result<Vec<(&'static str, String)>> {
    let by_load = |quantile: usize| {
        let point = |step: &&Step| (step.events_per_second, step.latency_ms.named()[quantile].1);
        let name = loads.first().map_or("", |step| step.latency_ms.named()[quantile].0);
        Curve { name: name.into(), points: loads.iter().map(point).collect() }
    };
    let by_share = |step: &&Step| Curve {
        name: step.name.clone(),
        points: step.distribution.iter().map(|(share, ms)| (nines(*share), *ms)).collect(),
    };
    let by_second = |step: &&Step| Curve {
        name: step.name.clone(),
        points: step.p99_by_second.iter().enumerate().map(|(second, ms)| (second as f64, *ms)).collect(),
    };
    let quantiles: Vec<Curve> = (0..4).map(by_load).collect();
    let distribution: Vec<Curve> = loads.iter().map(by_share).collect();
    let seconds: Vec<Curve> = loads.iter().map(by_second).collect();
    Ok(vec![
        ("Latency over load", milliseconds("events/s", &quantiles, &|x| format!("{x:.0}"))?),
        ("Distribution at each load", milliseconds("share of requests", &distribution, &|x| share(*x))?),
        ("p99 of the requests due in each second", milliseconds("s", &seconds, &|x| format!("{x:.0}"))?),
    ])
}

/// 0.9 is one nine, 0.99 two.
fn nines(share: f64) -> f64 {
    -(1.0 - share).max(1e-6).log10()
}

fn share(nines: f64) -> String {
    // Less than a whole nine may be what rounding has added.
    let decimals = (nines - 2.0 - 1e-6).ceil().clamp(0.0, 4.0) as usize;
    format!("{:.decimals$} %", (1.0 - 10f64.powf(-nines)) * 100.0)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_written_with_as_many_digits_as_they_have() {
        assert_eq!(share(0.0), "0 %");
        assert_eq!(share(nines(0.9)), "90 %");
        assert_eq!(share(nines(0.999)), "99.9 %");
        assert_eq!(share(nines(0.9999)), "99.99 %");
    }
}
