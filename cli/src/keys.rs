//! `lakehose keys`: makes API keys, lists and revokes them, in the file that gateways read.
//!
//! Read in the order of the `mod` lines: what the user may say, the file and how it changes, then the commands. None of
//! them talks to a gateway: each gateway sees that its file has changed.

pub mod args;
mod file;
mod create;
mod ls;
mod revoke;

use crate::config::Config;
use args::{Keys, Place, What};
use std::path::{Path, PathBuf};

pub fn run(args: &Keys, config: &Config) -> anyhow::Result<()> {
    match &args.what {
        What::Create(args) => create::run(args, config, &path(&args.place, config)),
        What::Ls(args) => ls::run(args, &path(&args.place, config)),
        What::Revoke(args) => revoke::run(args, &path(&args.place, config)),
    }
}

/// File that is meant when none is named, neither here nor in the configuration.
const DEFAULT_FILE: &str = "keys.toml";

fn path(place: &Place, config: &Config) -> PathBuf {
    place.file.clone().or_else(|| config.auth.keys.clone()).unwrap_or_else(|| Path::new(DEFAULT_FILE).to_owned())
}
