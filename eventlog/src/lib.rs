//! The log between the gateway and the processor.
//!
//! Two backends keep one contract: [`kafka`] (Apache Kafka through librdkafka) and [`local`] (a durable log on this
//! machine). `tests/conformance.rs` runs the same suite over both. What every backend promises:
//!
//! - [`Log::append`] answers a record with its position only when it is durable (invariant I1), and never before.
//! - Records of one key go to one partition, in the order in which they were appended.
//! - Offsets of a partition grow; a record never changes its offset nor its bytes.
//! - A rebalance is data: [`Consumer::poll`] returns [`Input::Assigned`] and [`Input::Revoked`], and neither takes
//!   effect until the caller answers with [`Consumer::assign`] or [`Consumer::release`]. So the caller decides where to
//!   read from (the table says, not the group) and may write out what it holds before another member reads on.
//! - Group offsets are hints for lag tools. Nothing in this crate reads them to decide where to resume (invariant I2).

pub mod record;
pub mod error;
pub mod kafka;
pub mod local;

pub use error::{AppendError, LogError, WholeError};
pub use record::{Headers, NewRecord, OwnedRecord, Position, Record, partition_for};

use futures::future::BoxFuture;
use std::time::Duration;

/// A log that producers append to and consumers read from. Cheap to share behind an `Arc`.
pub trait Log: Send + Sync + 'static {
    /// Creates `topic` with `partitions` partitions if it does not exist. Returns the number of partitions it has,
    /// which may differ when somebody else created it.
    fn ensure_topic<'a>(&'a self, topic: &'a str, partitions: u32) -> BoxFuture<'a, Result<u32, LogError>>;

    /// Appends records in order and resolves when the fate of every one is known; the answer has one entry per
    /// record, in the same order. `Ok` means durable.
    fn append<'a>(
        &'a self,
        topic: &'a str,
        records: Vec<NewRecord>,
    ) -> BoxFuture<'a, Vec<Result<Position, AppendError>>>;

    /// Appends all of the records or none, and tells where each of them is once all are durable. Many callers may do so at
    /// once, in many processes: unlike [`Log::exclusive`] nobody is shut out. Readers never see some of the records when
    /// the others will not be there. Who reads several partitions may see those of one a moment before those of another:
    /// Kafka ends a transaction partition by partition. Records of one key keep the order of such calls, if each waits for
    /// the answer to the one before.
    fn append_whole<'a>(
        &'a self,
        topic: &'a str,
        records: Vec<NewRecord>,
    ) -> BoxFuture<'a, Result<Vec<Position>, WholeError>> {
        drop(records);
        let reason = format!("this log cannot append all or nothing to {topic}");
        Box::pin(std::future::ready(Err(AppendError::Refused(reason).into())))
    }

    /// Joins `group` as a reader of `topic`. Blocking calls on the consumer belong on a thread of their own.
    fn consumer(&self, topic: &str, group: &str) -> Result<Box<dyn Consumer>, LogError>;

    /// What the log offers on top when several processes share it; `None` if this process has it to itself.
    fn shared(&self) -> Option<&dyn SharedLog> {
        None
    }

    /// Opens `topic` for one writer alone and shuts out every earlier one, in whatever process it lives or hangs: when
    /// this returns, nothing of theirs can get into the topic any more. Blocks; ordinary appends go on beside it.
    fn exclusive(&self, topic: &str) -> Result<Box<dyn Exclusive>, LogError> {
        let reason = format!("this log cannot open {topic} for one writer alone");
        Err(LogError::Fatal { what: "open a topic", reason })
    }

    /// Whether the log can take records now; the reason if not. Cheap: asked by readiness probes and by the gateway.
    fn health(&self) -> Result<(), LogError>;

    /// Flushes what is under way and stops background work. Appends after this are refused.
    fn close<'a>(&'a self) -> BoxFuture<'a, Result<(), LogError>>;
}

/// What processes that share a log agree through: a control topic, which has one partition, so that all read its records
/// in the same order.
pub trait SharedLog: Send + Sync {
    /// Makes the control topic if it does not exist. Its records may be deleted when they are older than `retain`.
    fn ensure_control_topic<'a>(&'a self, topic: &'a str, retain: Duration) -> BoxFuture<'a, Result<(), LogError>>;

    /// Stands for election: the member of `group` that is assigned the partition is elected. Unlike a consumer of
    /// [`Log::consumer`] it is missed within seconds when it dies, and at once when it is closed. For a moment two
    /// members may both think that they are elected.
    fn candidate(&self, topic: &str, group: &str) -> Result<Box<dyn Consumer>, LogError>;

    /// Reads every record that is appended after this call has returned, outside of any group. Asks a broker for the
    /// end; blocking calls belong on a thread of their own.
    fn tail(&self, topic: &str) -> Result<Box<dyn Tail>, LogError>;
}

/// A reader of what comes last in a control topic. A tail that falls behind the retention skips what is gone.
pub trait Tail: Send {
    /// Waits up to `max_wait` for records and hands them to `sink`; says how many there were.
    fn poll(&mut self, max_wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<usize, LogError>;
}

/// A member of a consumer group. Lives on one thread; `poll` must be called often (Kafka: at least every
/// `max.poll.interval.ms`), also while every partition is paused.
pub trait Consumer: Send {
    /// Waits up to `max_wait` for input and hands records, if that is what came, to `sink`, borrowed from the log's
    /// own buffers. Hands over at most [`MAX_RECORDS_PER_POLL`] records, and no further one once they have
    /// [`MAX_BYTES_PER_POLL`] bytes, so a caller can look after its memory between calls.
    fn poll(&mut self, max_wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<Input, LogError>;

    /// Answers [`Input::Assigned`]: read each partition from the given offset on.
    fn assign(&mut self, from: &[Position]) -> Result<(), LogError>;

    /// Answers [`Input::Revoked`]: the caller is done with these partitions and another member may read them.
    fn release(&mut self, partitions: &[i32]) -> Result<(), LogError>;

    /// Moves the position of an assigned partition. Records fetched before are not handed out any more.
    fn seek(&mut self, to: Position) -> Result<(), LogError>;

    /// Stops handing out records of these partitions; membership and heartbeats go on.
    fn pause(&mut self, partitions: &[i32]) -> Result<(), LogError>;

    /// Undoes [`Consumer::pause`]; nothing is lost or skipped in between.
    fn resume(&mut self, partitions: &[i32]) -> Result<(), LogError>;

    /// First offset still in the log and the next one to be written. Asks the broker; blocks up to `timeout`.
    fn bounds(&mut self, partition: i32, timeout: Duration) -> Result<Bounds, LogError>;

    /// The next offset to be written, as last seen while reading; `None` when not known yet. Never blocks.
    fn end_offset(&self, partition: i32) -> Option<i64>;

    /// Publishes how far the table is, for lag tools and retention. Never blocks; a lost hint is repaired by the next.
    fn commit_hint(&mut self, next: &[Position]) -> Result<(), LogError>;

    /// Leaves the group, giving up all partitions.
    fn close(self: Box<Self>) -> Result<(), LogError>;
}

/// The only writer of its kind to a topic, until the next one is opened. Its calls block.
///
/// For work that must be done exactly once by programs that may crash or hang: note what is to be appended, append it
/// whole, note that it is done. Whoever finds a note that is not done opens a writer of its own, which settles what the
/// one before was doing, and [reads](Exclusive::read) whether that got in.
pub trait Exclusive: Send {
    /// What each partition holds, in the order of their numbers.
    fn bounds(&mut self) -> Result<Vec<Bounds>, LogError>;

    /// Appends all of the records or none, and tells where each of them is.
    fn append(&mut self, records: Vec<OwnedRecord>) -> Result<Vec<Position>, WholeError>;

    /// Hands the records from the given positions on to `sink`, to the end that each partition has when the call begins.
    fn read(&mut self, from: &[Position], sink: &mut dyn FnMut(Record<'_>)) -> Result<(), LogError>;
}

/// Upper bound of records that one [`Consumer::poll`] hands out.
pub const MAX_RECORDS_PER_POLL: usize = 4_096;

/// A [`Consumer::poll`] ends with the record that brings its key and value bytes up to this.
pub const MAX_BYTES_PER_POLL: usize = 4 * 1024 * 1024;

/// What a poll brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Nothing within the wait.
    Idle,
    /// So many records went to the sink.
    Records(usize),
    /// These partitions are ours once [`Consumer::assign`] is called.
    Assigned(Vec<i32>),
    /// These partitions go to another member once [`Consumer::release`] is called.
    Revoked(Vec<i32>),
    /// These partitions were taken away without asking (session lost, partition deleted); do not answer.
    Lost(Vec<i32>),
    /// The log no longer holds the position of this partition (retention, or a topic made anew).
    OutOfRange(i32),
}

/// Offsets that a partition holds: `[first, next)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// First offset still readable.
    pub first: i64,
    /// Offset that the next record will get.
    pub next: i64,
}
