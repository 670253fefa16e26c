//! Starts the roles that a process consists of, and ends them in order.
//!
//! Everything that can be wrong with the surroundings (a port in use, no broker, no bucket, a table of another schema)
//! is found before the first event is taken and before anything is printed.

use crate::admin::{self, Health, Readiness};
use crate::config::Config;
use crate::failure::with_advice;
use crate::log;
use crate::parts::{Parts, Stage};
use crate::shutdown;
use crate::status;
use crate::tables;
use crate::telemetry::Telemetry;
use crate::welcome::Welcome;
use anyhow::Context;
use eventlog::Log;
use ingest::auth::Auth;
use lake::Lake;
use lake::dataset::Dataset;
use processor::Progress;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Which roles a process plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub gateway: bool,
    pub processor: bool,
    pub compactor: bool,
}

impl Roles {
    pub const ALL: Roles = Roles { gateway: true, processor: true, compactor: true };
    const NONE: Roles = Roles { gateway: false, processor: false, compactor: false };
    pub const INGEST: Roles = Roles { gateway: true, ..Roles::NONE };
    pub const PROCESSOR: Roles = Roles { processor: true, ..Roles::NONE };
    pub const COMPACTOR: Roles = Roles { compactor: true, ..Roles::NONE };
}

/// Runs `roles` until a signal ends them, or one of them fails.
pub async fn run(roles: Roles, config: Config, telemetry: Telemetry) -> anyhow::Result<()> {
    ingest::metrics::describe();
    processor::metrics::describe();
    compactor::metrics::describe();
    let shutdown = shutdown::on_signal()?;
    let surroundings = tokio::select! {
        found = Surroundings::find(roles, &config) => found?,
        () = shutdown.cancelled() => return Ok(()),
    };
    surroundings.welcome(&config)?.print();
    surroundings.run(&config, telemetry, shutdown).await
}

/// What the roles work with, found to be there.
struct Surroundings {
    datasets: Vec<Dataset>,
    admin: TcpListener,
    gateway: Option<TcpListener>,
    auth: Option<Arc<Auth>>,
    log: Option<Arc<dyn Log>>,
    spill: Option<ingest::Spill>,
    lake: Option<Lake>,
    roles: Roles,
}

impl Surroundings {
    async fn find(roles: Roles, config: &Config) -> anyhow::Result<Surroundings> {
        let datasets = config.datasets()?;
        let admin = config.admin.bind("--admin").await?;
        if roles.gateway {
            config.tls.try_out().context("[tls]")?;
        }
        let gateway = match roles.gateway {
            true => Some(config.listen.bind("--listen").await?),
            false => None,
        };
        let auth = match roles.gateway {
            true => Auth::open(&config.auth).context("[auth]")?.map(Arc::new),
            false => None,
        };
        let lake = match roles.processor || roles.compactor {
            true => Some(tables::open_lake(config).await?),
            false => None,
        };
        let log = match roles.gateway || roles.processor {
            true if roles == Roles::INGEST && config.spill.max_bytes.is_some() => {
                Some(log::open_later(config, &datasets).await?)
            }
            true => Some(log::open(config, &datasets).await?),
            false => None,
        };
        let spill = match roles.gateway {
            true => ingest::Spill::open(&config.spill, config.spill_directory(), &datasets).await?,
            false => None,
        };
        if let (Some(lake), true) = (&lake, roles.processor) {
            tables::prepare(lake, &datasets).await?;
        }
        Ok(Surroundings { datasets, admin, gateway, auth, log, spill, lake, roles })
    }

    fn welcome<'a>(&'a self, config: &'a Config) -> anyhow::Result<Welcome<'a>> {
        Ok(Welcome {
            datasets: &self.datasets,
            gateway: self.gateway.as_ref().map(TcpListener::local_addr).transpose()?,
            tls: &config.tls,
            asks_for_keys: self.auth.is_some(),
            admin: self.admin.local_addr()?,
            log: self.log.is_some().then(|| log::place(config)),
            lake: self.lake.as_ref(),
            endpoint: tables::endpoint(),
        })
    }

    async fn run(self, config: &Config, telemetry: Telemetry, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut health = Health::default();
        let mut parts = Parts::default();
        if let Some(log) = self.log.clone() {
            let spills = self.spill.as_ref().is_some_and(ingest::Spill::takes);
            health.watch("log", move || match log.health() {
                Ok(()) => Readiness::Ready,
                // Events are accepted all the same.
                Err(err) if spills => Readiness::Degraded(err.to_string()),
                Err(err) => Readiness::Unready(err.to_string()),
            });
        }
        if let (Some(listener), Some(log)) = (self.gateway, self.log.clone()) {
            let mut deps = ingest::Deps { auth: self.auth, ..ingest::Deps::new(log, self.datasets.clone()) };
            if let Some(spill) = self.spill {
                health.watch("spill", watch_spill(deps.condition.clone()));
                deps.spill = Some(Arc::new(spill));
            }
            health.watch("gateway", watch_gateway(deps.condition.clone()));
            let config = config.gateway();
            parts.start(Stage::Gateway, "gateway", |stop| ingest::serve(listener, config, deps, stop));
        }
        if let (Some(lake), Some(log), true) = (&self.lake, &self.log, self.roles.processor) {
            let config = config.processor(self.datasets.len(), self.roles.gateway);
            for dataset in &self.datasets {
                let name = format!("processor of {}", dataset.name);
                let progress = Arc::new(Progress::new(&dataset.name));
                let (log, lake, dataset) = (Arc::clone(log), lake.clone(), dataset.clone());
                health.watch(&name, watch(Arc::clone(&progress), self.roles.gateway));
                let deps = processor::Deps { log, lake, dataset, progress };
                parts.start(Stage::Processor, name, |stop| processor::run(config.clone(), deps, stop));
            }
        }
        if let (Some(lake), true) = (&self.lake, self.roles.compactor) {
            let memory = config.memory.compactor;
            let deps = compactor::Deps { lake: lake.clone(), datasets: self.datasets.clone(), memory };
            let (config, condition) = (config.compaction.clone(), compactor::Condition::default());
            health.watch("compactor", watch_compactor(condition.clone(), self.roles == Roles::COMPACTOR));
            parts.start(Stage::Compactor, "compactor", |stop| async {
                compactor::run_observed(config, deps, condition, stop).await.map_err(with_advice)
            });
        }
        let admin = tokio::spawn(admin::run(self.admin, health, telemetry.metrics.clone(), shutdown.clone()));
        let status = tokio::spawn(status::report(telemetry.clone()));
        let result = parts.run(&shutdown).await;
        status.abort();
        if let Some(line) = &telemetry.line {
            line.abandon();
        }
        let closed = match &self.log {
            Some(log) => log.close().await.context("close the log"),
            None => Ok(()),
        };
        admin.abort();
        result.and(closed)?;
        info!("stopped");
        Ok(())
    }
}

/// A processor beside a gateway must not take it out of service: the log accepts while the store is down. One by itself
/// serves nobody, so its readiness can say plainly that it does not get on.
fn watch(progress: Arc<Progress>, beside_gateway: bool) -> impl Fn() -> Readiness {
    const STARTING: &str = "reading the table and joining the consumer group";
    move || match progress.breakers().trouble() {
        None if progress.is_ready() => Readiness::Ready,
        None => Readiness::Unready(STARTING.to_owned()),
        Some(reason) if !progress.is_ready() => Readiness::Unready(format!("{STARTING}; {reason}")),
        Some(reason) if beside_gateway => Readiness::Degraded(reason),
        Some(reason) => Readiness::Unready(reason),
    }
}

/// A gateway that answers 503 by itself stays in service: by what devices send it finds out when the log is back.
fn watch_gateway(condition: ingest::Condition) -> impl Fn() -> Readiness {
    move || condition.trouble().map_or(Readiness::Ready, Readiness::Degraded)
}

/// What waits on disk is accepted; that it waits is worth knowing.
fn watch_spill(condition: ingest::Condition) -> impl Fn() -> Readiness {
    move || condition.spilled().map_or(Readiness::Ready, Readiness::Degraded)
}

/// As with a processor: only one by itself may say that the process does not get on.
fn watch_compactor(condition: compactor::Condition, by_itself: bool) -> impl Fn() -> Readiness {
    move || match condition.trouble() {
        None => Readiness::Ready,
        Some(reason) if by_itself => Readiness::Unready(reason),
        Some(reason) => Readiness::Degraded(reason),
    }
}
