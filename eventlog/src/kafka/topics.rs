//! Which topics there are: creating them, and telling an unknown one at once.
//!
//! librdkafka would hold records for a topic that does not exist until they time out, so each name is looked up before
//! the first append to it.

use super::context::Quiet;
use super::describe;
use super::producer::Producer;
use crate::LogError;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::Producer as _;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const LOOK_UP: Duration = Duration::from_secs(5);
const APPEARS_WITHIN: Duration = Duration::from_secs(15);
/// How long an answer that a topic does not exist is believed.
const MISSING_FOR: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Topics {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone, Copy)]
enum Known {
    Exists(u32),
    MissingSince(Instant),
}

impl Topics {
    /// The number of partitions of `topic`, `None` if it does not exist.
    pub(super) async fn partitions(&self, producer: &Arc<Producer>, topic: &str) -> Result<Option<u32>, LogError> {
        match self.lock().get(topic) {
            Some(Known::Exists(partitions)) => return Ok(Some(*partitions)),
            Some(Known::MissingSince(at)) if at.elapsed() < MISSING_FOR => return Ok(None),
            _ => {}
        }
        let found = look_up(producer, topic, Leaders::DoNotMatter).await?;
        let known = found.map_or(Known::MissingSince(Instant::now()), Known::Exists);
        self.lock().insert(topic.to_owned(), known);
        Ok(found)
    }

    /// Makes `topic` if it does not exist and waits until the brokers show it.
    pub(super) async fn ensure(
        &self,
        producer: &Arc<Producer>,
        admin: &AdminClient<Quiet>,
        topic: &Wanted<'_>,
    ) -> Result<u32, LogError> {
        if let Some(partitions) = look_up(producer, topic.name, Leaders::Needed).await? {
            self.lock().insert(topic.name.to_owned(), Known::Exists(partitions));
            return Ok(partitions);
        }
        topic.create(admin).await?;
        let deadline = Instant::now() + APPEARS_WITHIN;
        while Instant::now() < deadline {
            if let Some(partitions) = look_up(producer, topic.name, Leaders::Needed).await? {
                self.lock().insert(topic.name.to_owned(), Known::Exists(partitions));
                return Ok(partitions);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let reason = format!("topic {} was created but does not appear", topic.name);
        Err(LogError::Unavailable { what: "create a topic", reason })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A topic to make.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) partitions: u32,
    pub(super) replication: Option<u16>,
    pub(super) max_record_bytes: usize,
    /// Age at which records may be deleted; `None` = the brokers' default.
    pub(super) retain: Option<Duration>,
}

impl Wanted<'_> {
    async fn create(&self, admin: &AdminClient<Quiet>) -> Result<(), LogError> {
        let fatal = |reason: String| LogError::Fatal { what: "create a topic", reason };
        let partitions = i32::try_from(self.partitions).ok().filter(|partitions| *partitions > 0);
        let partitions = partitions.ok_or_else(|| fatal(format!("{} partitions are not possible", self.partitions)))?;
        let max_bytes = self.max_record_bytes.to_string();
        let replication = TopicReplication::Fixed(self.replication.map_or(-1, i32::from));
        // Only a closed segment is deleted, and by default one stays open for a week.
        let retain = self.retain.map(|retain| (retain.as_millis().to_string(), (retain / 4).as_millis().to_string()));
        let mut new = NewTopic::new(self.name, partitions, replication).set("max.message.bytes", &max_bytes);
        if let Some((retain, segment)) = &retain {
            new = new.set("cleanup.policy", "delete").set("retention.ms", retain).set("segment.ms", segment);
        }
        let options = AdminOptions::new()
            .request_timeout(Some(Duration::from_secs(10)))
            .operation_timeout(Some(Duration::from_secs(10)));
        let results = admin.create_topics([&new], &options).await.map_err(|err| describe("create a topic", &err))?;
        match results.into_iter().next() {
            None | Some(Ok(_)) | Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((name, code))) => Err(fatal(format!("{name}: {code}"))),
        }
    }
}

/// Whether a topic counts while some of its partitions have no leader, as while it is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaders {
    Needed,
    DoNotMatter,
}

/// Asks the brokers. All topics are asked for, because asking for one by name may make some brokers create it.
async fn look_up(producer: &Arc<Producer>, topic: &str, leaders: Leaders) -> Result<Option<u32>, LogError> {
    let (producer, topic) = (Arc::clone(producer), topic.to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        let metadata =
            producer.client().fetch_metadata(None, LOOK_UP).map_err(|err| describe("look up a topic", &err))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let all_lead = |found: &&MetadataTopic| found.partitions().iter().all(|partition| partition.leader() >= 0);
        let counts = found.filter(|found| leaders == Leaders::DoNotMatter || all_lead(found));
        Ok(counts.map(|found| found.partitions().len() as u32).filter(|partitions| *partitions > 0))
    });
    asked.await.map_err(|err| LogError::Unavailable { what: "look up a topic", reason: err.to_string() })?
}
