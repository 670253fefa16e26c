//! Kafka with faults.
