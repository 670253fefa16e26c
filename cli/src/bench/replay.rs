//! `lakehose bench --replay`: posts a file of events to a running gateway, in their order.

use super::args::Replay;
use super::client::{Client, Totals};
use super::figures::Figures;
use anyhow::{Context, bail};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};

/// Posts all of it; fails if any event was rejected.
pub async fn run(file: &Path, args: &Replay, as_json: bool) -> anyhow::Result<()> {
    let mut figures = Figures::new(format!("replay of {} to {}", file.display(), args.to));
    let mut lines = BufReader::new(open(file).await?).lines();
    let mut client = Client::new(args.to.clone())?;
    let began = Instant::now();
    let mut taken = 0u64;
    loop {
        let batch = next_batch(&mut lines, args.batch as usize).await;
        let batch = batch.with_context(|| format!("cannot read {}", file.display()))?;
        if batch.is_empty() {
            break;
        }
        if let Some(rate) = args.rate {
            let due = Duration::from_secs_f64(taken as f64 / f64::from(rate));
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
        taken += batch.len() as u64;
        client.post(&batch).await?;
    }
    if taken == 0 {
        bail!("{} holds no events: one JSON object a line is expected", file.display());
    }
    report(&mut figures, &client.totals, began.elapsed());
    figures.print(as_json);
    match client.totals {
        Totals { rejected: 0, .. } => Ok(()),
        Totals { rejected, reasons, .. } => bail!("{rejected} events were rejected, first {}", reasons.join("; ")),
    }
}

async fn open(file: &Path) -> anyhow::Result<Box<dyn AsyncRead + Unpin + Send>> {
    if file == Path::new("-") {
        return Ok(Box::new(tokio::io::stdin()));
    }
    let opened = File::open(file).await;
    Ok(Box::new(opened.with_context(|| format!("cannot open {} (--replay names a file of events)", file.display()))?))
}

/// The next lines that are not blank.
async fn next_batch<R: AsyncRead + Unpin>(
    lines: &mut Lines<BufReader<R>>,
    size: usize,
) -> std::io::Result<Vec<String>> {
    let mut batch = Vec::with_capacity(size);
    while batch.len() < size {
        match lines.next_line().await? {
            Some(line) if line.trim().is_empty() => {}
            Some(line) => batch.push(line),
            None => break,
        }
    }
    Ok(batch)
}

fn report(figures: &mut Figures, totals: &Totals, took: Duration) {
    figures.add("accepted", totals.accepted as f64, "events");
    figures.add("duplicates", totals.duplicates as f64, "events");
    figures.add("rejected", totals.rejected as f64, "events");
    figures.add("requests", totals.requests as f64, "");
    figures.add("repeated", totals.repeated as f64, "requests, after a wait that the gateway asked for");
    figures.add("took", took.as_secs_f64(), "s");
    figures.add("rate", totals.accepted as f64 / took.as_secs_f64(), "events/s");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn blank_lines_are_no_events() {
        let mut lines = BufReader::new(&b"a\n\n \r\nb\nc"[..]).lines();
        assert_eq!(next_batch(&mut lines, 2).await.unwrap(), ["a", "b"]);
        assert_eq!(next_batch(&mut lines, 2).await.unwrap(), ["c"]);
        assert!(next_batch(&mut lines, 2).await.unwrap().is_empty());
    }
}
