//! A durable log on this machine, over fjall.
