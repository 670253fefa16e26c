//! End to end: the built binary as a user starts it, events over HTTP, counted in DuckDB.
//!
//! A fleet of devices posts and sends again what was not acknowledged, while processes are killed, stopped and added.
//! What the devices know is their ledger; [`support::table`] compares it with the table. Needs the servers and the
//! variables of `infra/test`.

#![allow(unreachable_pub, reason = "a test exports nothing: `pub` tells what a module offers the others")]

mod support;

mod first_steps;
mod contract;
mod cloudevents;
mod keys;
mod crashes;
mod atomic;
mod retries;
mod devices;
mod many_processes;
mod foreign_producers;
mod dead_letters;
mod deletion;
mod outage;
mod spill;
mod memory;
mod schema_change;
mod compaction;
mod kafka_faults;
mod full_disk;
mod rebalance;
mod tools;
mod chaos;
