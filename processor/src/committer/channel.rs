//! The committer of a process that has the log to itself: commits at once what comes through a channel.

use super::deciding::Deciding;
use super::{Request, Verdict};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often it is looked after flushes that wait for one before them.
const LOOK_AFTER_HELD: Duration = Duration::from_millis(200);

pub(super) async fn run(mut deciding: Deciding<oneshot::Sender<Verdict>>, mut queue: mpsc::Receiver<Request>) {
    loop {
        let request = if deciding.held() == 0 {
            queue.recv().await
        } else {
            match tokio::time::timeout(LOOK_AFTER_HELD, queue.recv()).await {
                Ok(request) => request,
                Err(_) => {
                    answer(deciding.commit_held().await);
                    continue;
                }
            }
        };
        let Some((submission, sender)) = request else { break };
        deciding.hold(submission, sender);
        // Whatever came in meanwhile shares the commit.
        while let Ok((submission, sender)) = queue.try_recv() {
            deciding.hold(submission, sender);
        }
        answer(deciding.commit_held().await);
    }
    deciding.finish().await;
}

fn answer(decided: Vec<(oneshot::Sender<Verdict>, Verdict)>) {
    for (sender, verdict) in decided {
        // Nobody waits if the flush was given up.
        let _ = sender.send(verdict);
    }
}
