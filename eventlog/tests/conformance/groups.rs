//! Consumer groups of Kafka.
