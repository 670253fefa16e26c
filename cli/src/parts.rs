//! The running parts of the process, and the order in which they end.
//!
//! An event goes through the stages from first to last, so they end in that order too: each finishes what the one
//! before has left it. A part that ends by itself ends the process: half a pipeline would only look alive.

use crate::failure::in_one_line;
use anyhow::{Context, anyhow};
use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use std::time::Duration;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Where in the way of an event a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Stops accepting, answers what it has accepted.
    Gateway,
    /// Reads the log to its end, writes and commits.
    Processor,
    /// Finishes or gives up the merge at hand.
    Compactor,
}

const STAGES: [Stage; 3] = [Stage::Gateway, Stage::Processor, Stage::Compactor];

/// What the other parts may still take when one has failed.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Parts that were started.
pub struct Parts {
    running: Vec<Part>,
    after_failure: Duration,
}

struct Part {
    name: String,
    stage: Stage,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Default for Parts {
    fn default() -> Self {
        Parts { running: Vec::new(), after_failure: AFTER_FAILURE }
    }
}

impl Parts {
    /// Starts a part. It ends, having finished what it holds, when the token it gets is cancelled.
    pub fn start<F>(&mut self, stage: Stage, name: impl Into<String>, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = tokio::spawn(part(stop.clone()));
        self.running.push(Part { name: name.into(), stage, stop, task });
    }

    /// Runs until `shutdown` or until a part ends by itself, then drains stage by stage. Answers the first failure.
    pub async fn run(mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let first = tokio::select! {
            () = shutdown.cancelled() => None,
            ended = self.first_to_end() => Some(ended),
        };
        let Some((name, outcome)) = first else {
            return self.drain().await;
        };
        let failure = match outcome {
            Ok(()) => anyhow!("{name} ended though nobody asked it to"),
            Err(err) => err,
        };
        shutdown.cancel();
        self.running.retain(|part| part.name != name);
        warn!(part = name, "part of the process failed, stopping the others");
        match tokio::time::timeout(self.after_failure, self.drain()).await {
            Ok(Ok(())) => {}
            Ok(Err(err)) => warn!(error = in_one_line(&err), "another part failed while stopping"),
            Err(_) => warn!("gave up waiting for the other parts"),
        }
        Err(failure)
    }

    async fn first_to_end(&mut self) -> (String, anyhow::Result<()>) {
        let mut running: FuturesUnordered<_> = self.running.iter_mut().map(Part::ended).collect();
        match running.next().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }

    async fn drain(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        for stage in STAGES {
            let mut of_stage: Vec<Part> = self.running.extract_if(.., |part| part.stage == stage).collect();
            for part in &of_stage {
                part.stop.cancel();
            }
            for (name, outcome) in join_all(of_stage.iter_mut().map(Part::ended)).await {
                match outcome {
                    Ok(()) => info!(part = name, "finished"),
                    Err(err) => result = result.and(Err(err)),
                }
            }
        }
        result
    }
}

impl Part {
    async fn ended(&mut self) -> (String, anyhow::Result<()>) {
        let outcome = match (&mut self.task).await {
            Ok(outcome) => outcome.with_context(|| self.name.clone()),
            Err(err) => Err(anyhow!("{} {}", self.name, how_it_died(err))),
        };
        (self.name.clone(), outcome)
    }
}

fn how_it_died(err: JoinError) -> String {
    match err.try_into_panic() {
        Ok(panic) => {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            format!("panicked: {}", message.unwrap_or_default())
        }
        Err(err) => err.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    type Ends = Arc<Mutex<Vec<&'static str>>>;

    /// A part that takes a while to finish, and notes when it has.
    fn start(parts: &mut Parts, stage: Stage, name: &'static str, takes: u64, ends: &Ends) {
        let ends = Arc::clone(ends);
        parts.start(stage, name, move |stop| async move {
            stop.cancelled().await;
            tokio::time::sleep(Duration::from_millis(takes)).await;
            ends.lock().unwrap().push(name);
            Ok(())
        });
    }

    #[tokio::test]
    async fn parts_end_in_the_order_in_which_an_event_passes_them() {
        let (mut parts, ends) = (Parts::default(), Ends::default());
        start(&mut parts, Stage::Compactor, "compactor", 0, &ends);
        start(&mut parts, Stage::Processor, "processor", 20, &ends);
        start(&mut parts, Stage::Gateway, "gateway", 50, &ends);
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        parts.run(&shutdown).await.unwrap();
        assert_eq!(*ends.lock().unwrap(), ["gateway", "processor", "compactor"]);
    }

    #[tokio::test]
    async fn a_part_that_fails_stops_the_others_and_is_named() {
        let (mut parts, ends) = (Parts::default(), Ends::default());
        start(&mut parts, Stage::Gateway, "gateway", 100, &ends);
        parts.start(Stage::Processor, "processor of events", async |_| Err(anyhow!("disk full")));
        let shutdown = CancellationToken::new();
        let err = parts.run(&shutdown).await.unwrap_err();
        assert_eq!(format!("{err:#}"), "processor of events: disk full");
        assert_eq!(*ends.lock().unwrap(), ["gateway"]);
        assert!(shutdown.is_cancelled());
    }

    #[tokio::test]
    async fn a_part_that_hangs_after_a_failure_is_not_waited_for_for_ever() {
        let ends = Ends::default();
        let mut parts = Parts { after_failure: Duration::from_millis(50), ..Parts::default() };
        start(&mut parts, Stage::Gateway, "gateway", 1_000_000_000, &ends);
        parts.start(Stage::Compactor, "compactor", async |_| panic!("overflow"));
        let err = parts.run(&CancellationToken::new()).await.unwrap_err();
        assert_eq!(format!("{err:#}"), "compactor panicked: overflow");
    }
}
