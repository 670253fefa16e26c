//! What a reader sees of an append while it is written.

use crate::bed::{TOPIC, drain, open, reader, record, runtime};
use eventlog::Log;
use eventlog::local::LocalOptions;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const PARTITIONS: u32 = 16;
/// Fewer than a poll hands out.
const RECORDS: usize = 200;

#[test]
fn who_has_read_to_the_end_has_seen_every_append_whole() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(dir.path(), LocalOptions::default(), PARTITIONS));
    let mut reader = reader(&log, "whole", |_| 0);
    let done = Arc::new(AtomicBool::new(false));
    let (writing, is_done) = (Arc::clone(&log), Arc::clone(&done));
    let writer = std::thread::spawn(move || {
        let runtime = runtime();
        for call in 0..400 {
            let records = (0..RECORDS).map(|n| record(&format!("key-{n}"), &format!("{call}"))).collect();
            runtime.block_on(writing.append_whole(TOPIC, records)).unwrap();
        }
        is_done.store(true, Ordering::Release);
    });
    let (mut seen, mut looks) = (BTreeMap::<String, usize>::new(), 0);
    loop {
        let last = done.load(Ordering::Acquire);
        let new = drain(reader.as_mut());
        looks += usize::from(!new.is_empty());
        new.into_iter().for_each(|(_, call)| *seen.entry(call).or_default() += 1);
        let in_part: Vec<_> = seen.iter().filter(|(_, records)| **records != RECORDS).collect();
        assert!(in_part.is_empty(), "seen in part: {in_part:?}");
        if last {
            break;
        }
    }
    writer.join().unwrap();
    assert_eq!(seen.len(), 400);
    assert!(looks > 20, "only {looks} looks found anything");
}
