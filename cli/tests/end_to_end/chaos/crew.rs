//! The processes, and somebody who looks after them as an orchestrator would: what ended is started again, and a start
//! that failed is tried again. A process that ends by itself is a failure, unless the store has said 403 or Kafka that
//! the static member is another now: those two end it, as documented.

use super::schedule::Action;
use super::store_proxy::{Disturbance, Fault, Operation, StoreProxy};
use crate::support::PATIENCE;
use crate::support::broker::Broker;
use crate::support::fleet::{Fleet, Ledger};
use crate::support::kafka::Topic;
use crate::support::process::{Lakehose, Place};
use rustix::process::Signal;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// All that takes part.
pub struct Crew {
    pub proxy: StoreProxy,
    pub broker: Broker,
    fleet: Option<Fleet>,
    pub topic: Topic,
    gateway: Post,
    compactor: Post,
    processors: Vec<Post>,
    /// Told to stop; must end in order.
    leaving: Vec<Leaving>,
    broker_thaws: Option<Instant>,
    denied_until: Option<Instant>,
    partitions: usize,
    /// How often processes were started.
    pub starts: usize,
    /// How often one ended by itself, as it may.
    pub ended: usize,
    /// Last, so that the logs in it are still there when a failure shows their ends.
    pub place: Arc<Place>,
}

/// Most partitions that a topic is given.
const MOST_PARTITIONS: usize = 10;
const MOST_PROCESSORS: usize = 4;
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A job for one process, and who does it now.
struct Post {
    command: &'static str,
    /// Static membership.
    member: Option<&'static str>,
    holder: Holder,
    frozen_until: Option<Instant>,
    /// After a start that failed.
    waits_until: Option<Instant>,
    /// The store said 403 in its life.
    excused: bool,
}

enum Holder {
    Nobody,
    Starting(JoinHandle<Result<Lakehose, String>>),
    Running(Lakehose),
}

struct Leaving {
    process: Lakehose,
    member: Option<&'static str>,
    excused: bool,
}

impl Crew {
    /// Starts a gateway, a compactor and two processors, one of them a static member, and waits until they run.
    pub fn start(
        place: Place,
        proxy: StoreProxy,
        broker: Broker,
        topic: Topic,
        fleet: impl FnOnce(String) -> Fleet,
    ) -> Crew {
        let place = Arc::new(place);
        let processors = vec![Post::new("processor", Some("member-0")), Post::new("processor", None)];
        let (mut gateway, compactor) = (Post::new("ingest", None), Post::new("compactor", None));
        let first = place.start("ingest");
        let fleet = Some(fleet(first.gateway()));
        gateway.holder = Holder::Running(first);
        let mut crew = Crew {
            partitions: place.config.partitions as usize,
            place,
            proxy,
            broker,
            fleet,
            topic,
            gateway,
            compactor,
            processors,
            leaving: Vec::new(),
            broker_thaws: None,
            denied_until: None,
            starts: 1,
            ended: 0,
        };
        crew.look_after_until("everybody runs", PATIENCE, Crew::is_complete);
        crew
    }

    fn is_complete(&self) -> bool {
        let posts = self.processors.iter().chain([&self.gateway, &self.compactor]);
        posts.into_iter().all(|post| matches!(post.holder, Holder::Running(_)))
    }

    pub fn perform(&mut self, action: Action) {
        match action {
            Action::KillProcessor(n) => self.processor(n).kill(),
            Action::ReplaceProcessor(n) => {
                let leaving = self.processor(n).let_go();
                self.leaving.extend(leaving);
            }
            Action::FreezeProcessor(n, lasts) => self.processor(n).freeze(lasts),
            Action::AddProcessor if self.processors.len() < MOST_PROCESSORS => {
                self.processors.push(Post::new("processor", None));
            }
            Action::RemoveProcessor(n) if self.processors.len() > 1 => {
                let mut post = self.processors.remove(n % self.processors.len());
                post.thaw();
                match post.holder {
                    Holder::Starting(start) => drop(start.join()),
                    _ => self.leaving.extend(post.let_go()),
                }
            }
            Action::KillGateway => self.gateway.kill(),
            Action::KillCompactor => self.compactor.kill(),
            Action::FreezeBroker(lasts) if self.broker_thaws.is_none() => {
                self.broker.freeze();
                self.broker_thaws = Some(Instant::now() + lasts);
            }
            Action::KillBroker => {
                self.broker.kill();
                self.broker_thaws = None;
                self.broker.start_again();
            }
            Action::MorePartitions if self.broker_thaws.is_none() && self.partitions < MOST_PARTITIONS => {
                match self.topic.widen(self.partitions + 2) {
                    Ok(()) => self.partitions += 2,
                    // The broker may have died or been frozen a moment ago.
                    Err(err) => println!("           not widened: {err}"),
                }
            }
            Action::Disturb(disturbance) => self.proxy.disturb(disturbance),
            Action::Deny(lasts) => self.deny(lasts),
            Action::AddProcessor | Action::RemoveProcessor(_) | Action::FreezeBroker(_) | Action::MorePartitions => {
                println!("           not now");
            }
        }
    }

    fn processor(&mut self, n: usize) -> &mut Post {
        let count = self.processors.len();
        &mut self.processors[n % count]
    }

    fn deny(&mut self, lasts: Duration) {
        for operation in [Operation::PutFile, Operation::PutLog, Operation::Get, Operation::List] {
            self.proxy.disturb(Disturbance { operation, fault: Fault::Refuse(403), share: 1.0, lasts });
        }
        // A client that was refused at the end of it may say so a little later.
        self.denied_until = Some(Instant::now() + lasts + Duration::from_secs(1));
    }

    /// Does what is due until `holds`.
    #[track_caller]
    fn look_after_until(&mut self, what: &str, within: Duration, mut holds: impl FnMut(&Crew) -> bool) {
        let deadline = Instant::now() + within;
        while !holds(self) {
            assert!(Instant::now() < deadline, "not within {within:?}: {what}");
            self.look_after();
        }
    }

    /// Does what is due, for as long.
    pub fn look_after_for(&mut self, duration: Duration) {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            self.look_after();
        }
    }

    fn look_after(&mut self) {
        let now = Instant::now();
        if self.broker_thaws.is_some_and(|at| at <= now) {
            self.broker.thaw();
            self.broker_thaws = None;
        }
        let is_denied = self.denied_until.is_some_and(|until| now < until);
        let mut still_there = Vec::new();
        for leaving in &mut self.leaving {
            leaving.excused |= is_denied;
            still_there.extend(leaving.member.filter(|_| leaving.process.ended().is_none()));
        }
        for post in self.processors.iter_mut().chain([&mut self.gateway, &mut self.compactor]) {
            post.excused |= is_denied;
            if post.frozen_until.is_some_and(|until| until <= now) {
                post.thaw();
            }
            self.ended += usize::from(post.ended_by_itself());
            // Two of one name would fence each other.
            if !post.member.is_some_and(|member| still_there.contains(&member)) {
                self.starts += usize::from(post.fill(&self.place));
            }
            if let (Holder::Running(process), "ingest", Some(fleet)) = (&post.holder, post.command, &self.fleet) {
                fleet.go_to(process.gateway());
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }

    /// Takes every fault back and waits until all posts are filled.
    pub fn heal(&mut self) -> u64 {
        let met = self.proxy.heal();
        if self.broker_thaws.take().is_some() {
            self.broker.thaw();
        }
        for post in &mut self.processors {
            post.thaw();
        }
        self.look_after_until("everybody runs", PATIENCE, Crew::is_complete);
        met
    }

    /// Waits until the devices have an acknowledgement for all they posted, and all of it is in the table.
    pub fn settle(&mut self, within: Duration) -> Ledger {
        let fleet = self.fleet.take().expect("it settles once");
        let stopping = std::thread::spawn(|| fleet.stop());
        self.look_after_until("all acknowledged", within, |_| stopping.is_finished());
        let ledger = stopping.join().expect("every device got its acknowledgements");
        self.look_after_until("no lag", within, |crew| crew.topic.committed() == crew.topic.ends());
        ledger
    }

    /// Stops all in order. What they were told to do before must have ended by now, too.
    pub fn stop(self) {
        let mut last = Vec::new();
        for post in self.processors.into_iter().chain([self.gateway, self.compactor]) {
            last.extend(match post.holder {
                Holder::Running(process) => Some(process),
                _ => None,
            });
        }
        for Leaving { mut process, excused, .. } in self.leaving {
            if !(excused && process.ended().is_some()) {
                process.wait_for_its_end();
            }
        }
        let first = last.remove(0);
        first.stop_all(last);
    }
}

impl Post {
    fn new(command: &'static str, member: Option<&'static str>) -> Post {
        let (frozen_until, waits_until) = (None, None);
        Post { command, member, holder: Holder::Nobody, frozen_until, waits_until, excused: false }
    }

    /// Starts somebody if nobody is there, and notices when a start has worked out. True when one was begun.
    fn fill(&mut self, place: &Arc<Place>) -> bool {
        match std::mem::replace(&mut self.holder, Holder::Nobody) {
            Holder::Nobody if self.waits_until.is_none_or(|until| until <= Instant::now()) => {
                let (place, command, member) = (Arc::clone(place), self.command, self.member);
                self.holder = Holder::Starting(std::thread::spawn(move || {
                    let member = member.map(|name| ("LAKEHOSE_KAFKA_GROUP_INSTANCE_ID", name));
                    place.try_start(command, member.as_slice())
                }));
                return true;
            }
            Holder::Starting(start) if start.is_finished() => match start.join().unwrap() {
                Ok(process) => self.holder = Holder::Running(process),
                Err(said) => {
                    println!("           a start failed: {:.160}", said.lines().last().unwrap_or_default());
                    self.waits_until = Some(Instant::now() + TRY_AGAIN_AFTER);
                }
            },
            other => self.holder = other,
        }
        false
    }

    /// Notices that the process has ended, for one of the two reasons that it may have.
    fn ended_by_itself(&mut self) -> bool {
        let Holder::Running(process) = &mut self.holder else { return false };
        let Some(status) = process.ended() else { return false };
        let tail = process.log_tail();
        let words = tail.lines().last().unwrap_or_default();
        // A static member's commit that is repeated after a broker's restart may come when the member has joined anew:
        // librdkafka then believes that another of its name has come, and gives up for good.
        let is_fenced = self.member.is_some() && words.contains("FencedInstanceId");
        let is_refused = self.excused && words.contains("refuses these credentials");
        assert!(is_refused || is_fenced, "{} ended by itself with {status}:\n{tail}", self.command);
        println!("           {} ended: {words:.160}", self.command);
        (self.holder, self.excused) = (Holder::Nobody, false);
        true
    }

    fn kill(&mut self) {
        if let Some(process) = self.take_running() {
            process.kill();
            (self.frozen_until, self.excused) = (None, false);
        }
    }

    /// Tells it to stop; the post is free for another.
    fn let_go(&mut self) -> Option<Leaving> {
        self.thaw();
        let process = self.take_running()?;
        process.signal(Signal::TERM);
        Some(Leaving { process, member: self.member, excused: std::mem::take(&mut self.excused) })
    }

    fn freeze(&mut self, lasts: Duration) {
        if let Some(process) = self.running() {
            process.signal(Signal::STOP);
            self.frozen_until = Some(Instant::now() + lasts);
        }
    }

    /// The process, unless it is about to start or has ended.
    fn running(&mut self) -> Option<&mut Lakehose> {
        match &mut self.holder {
            Holder::Running(process) => process.ended().is_none().then_some(process),
            _ => None,
        }
    }

    fn take_running(&mut self) -> Option<Lakehose> {
        self.running()?;
        match std::mem::replace(&mut self.holder, Holder::Nobody) {
            Holder::Running(process) => Some(process),
            _ => None,
        }
    }

    fn thaw(&mut self) {
        if let (Holder::Running(process), Some(_)) = (&mut self.holder, self.frozen_until.take()) {
            process.signal(Signal::CONT);
        }
    }
}
