use super::environment::{OPTIONS, SECTIONS, apply};
use super::*;
use bytesize::ByteSize;
use clap::CommandFactory;
use std::time::Duration;

fn from(file: &str, variables: &[(&str, &str)], overrides: Overrides) -> anyhow::Result<Config> {
    let mut settings = super::file::parse(file).map_err(|m| anyhow::anyhow!("line {}: {}", m.line, m.what))?;
    apply(&mut settings, variables.iter().map(|(k, v)| (k.to_string(), v.to_string())))?;
    let mut config: Config = settings.try_into()?;
    config.apply(overrides);
    config.check()?;
    Ok(config)
}

fn problem(file: &str, variables: &[(&str, &str)]) -> String {
    from(file, variables, Overrides::default()).unwrap_err().to_string()
}

#[test]
fn without_a_file_there_is_one_dataset_events() {
    let config = from("", &[], Overrides::default()).unwrap();
    let names: Vec<String> = config.datasets().unwrap().into_iter().map(|d| d.name).collect();
    assert_eq!(names, ["events"]);
    assert!(config.listen.is_loopback() && config.admin.is_loopback());
}

#[test]
fn reads_every_section() {
    let file = r#"
        listen = "127.0.0.1:8081"
        [datasets.heartbeats]
        partitions = 6
        columns = { "temp" = "double", "battery" = "long", "fw" = { type = "string", from = "firmware.version" } }
        sort_by = ["device_id", "time"]
        retention = "90d"
        dedup_window = "10m"
        max_age = "7d"
        max_ahead = "1h"
        priority = "high"
        [auth]
        keys = "keys.toml"
        jwks = "jwks.json"
        issuer = "https://issuer.example"
        audience = "lakehose"
        device_claim = "device"
        [limits]
        per_device = { events_per_second = 100, burst = 1000 }
        per_ip     = { events_per_second = 10000, burst = 20000 }
        per_key    = { events_per_second = 5000, burst = 10000, bytes_per_second = "1MiB", burst_bytes = "8MiB" }
        per_dataset = { bytes_per_second = "32MiB", burst_bytes = "64MiB" }
        global     = { events_per_second = 500000, burst = 1000000 }
        [ingest]
        max_body = "4MiB"
        max_in_flight = "128MiB"
        trusted_proxies = ["10.0.0.0/8", "::1"]
        min_rate = "4KiB"
        min_rate_window = "5s"
        breaker_after = "1s"
        [tls]
        cert = "cert.pem"
        key = "key.pem"
        client_ca = "ca.pem"
        client_auth = "optional"
        [spill]
        max_bytes = "2GiB"
        directory = "/var/spill"
        [flush]
        every = "2s"
        bytes = "32MiB"
        [memory]
        processor = "1GiB"
        compactor = "1GiB"
        [compaction]
        every = "1m"
        [kafka]
        brokers = "kafka:9092"
        group_instance_id = "processor-1"
        transactional_id = "gateway-1"
        options = { "security.protocol" = "SASL_SSL", "linger.ms" = 5 }
        [eventlog]
        retain_age = "1h"
        retain_bytes = "100MiB"
        disk_budget = "2GiB"
    "#;
    let config = from(file, &[], Overrides::default()).unwrap();
    assert_eq!(config.datasets().unwrap()[0].spec.columns.len(), 3);
    assert!(config.limits.per_device.is_some() && config.limits.per_ip.is_some() && config.limits.global.is_some());
    assert_eq!(config.gateway().http.max_body, ByteSize::mib(4));
    assert_eq!(config.gateway().http.min_rate, ByteSize::kib(4));
    assert_eq!(config.gateway().http.min_rate_window, Duration::from_secs(5));
    assert!(config.gateway().tls.is_on() && !config.tls.requires_client_certificate());
    assert_eq!(config.gateway().http.breaker_after, Duration::from_secs(1));
    assert_eq!((config.spill.max_bytes, config.spill_directory()), (Some(ByteSize::gib(2)), "/var/spill".into()));
    assert_eq!(config.processor(2, true).memory, ByteSize::mib(512));
    assert_eq!(config.compaction.every, Duration::from_secs(60));
    assert_eq!(config.eventlog.disk_budget, ByteSize::gib(2));
    assert_eq!(config.kafka.transactional_id.as_deref(), Some("gateway-1"));
}

#[test]
fn the_environment_wins_over_the_file_and_the_command_line_over_both() {
    let file = "lake = 's3://file/x'\n[flush]\nevery = '7s'\nbytes = '1MiB'\n[kafka]\nbrokers = 'file:1'";
    let variables = [("LAKEHOSE_FLUSH_EVERY", "1s"), ("LAKEHOSE_KAFKA_BROKERS", "variable:1")];
    let config = from(file, &variables, Overrides::default()).unwrap();
    assert_eq!((config.flush.every, config.flush.bytes), (Duration::from_secs(1), ByteSize::mib(1)));
    assert_eq!(config.kafka.brokers.as_deref(), Some("variable:1"));

    let overrides =
        Overrides { brokers: Some("option:1".into()), lake: Some("s3://option/x".into()), ..Overrides::default() };
    let config = from(file, &variables, overrides).unwrap();
    assert_eq!(config.kafka.brokers.as_deref(), Some("option:1"));
    assert_eq!(config.lake_location(), "s3://option/x");
}

#[test]
fn declared_columns_keep_their_order() {
    let file = "[datasets.heartbeats]\ncolumns = { z = 'double', a = 'long', m = { type = 'string', from = 'x.y' } }";
    let config = from(file, &[("LAKEHOSE_FLUSH_EVERY", "1s")], Overrides::default()).unwrap();
    let columns: Vec<&str> = config.datasets["heartbeats"].columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(columns, ["z", "a", "m"]);
}

#[test]
fn a_variable_takes_the_type_of_its_setting() {
    let variables = [
        ("LAKEHOSE_KAFKA_GROUP_INSTANCE_ID", "7"),
        ("LAKEHOSE_KAFKA_OPTIONS", "{ \"linger.ms\" = 5, \"security.protocol\" = \"SSL\" }"),
        ("LAKEHOSE_MEMORY_PROCESSOR", "256MiB"),
        ("LAKEHOSE_FLUSH_BYTES", "1048576"),
        ("LAKEHOSE_AUTH_KEYS", "keys.toml"),
        ("LAKEHOSE_AUTH_KEYS_TEXT", "[[keys]]\nid = 'a'\nname = 'b'\n"),
        ("LAKEHOSE_DATASETS_TRIPS", "{ partitions = 2 }"),
    ];
    let config = from("", &variables, Overrides::default()).unwrap();
    assert_eq!(config.kafka.group_instance_id.as_deref(), Some("7"));
    assert_eq!(config.kafka.options["linger.ms"], "5");
    assert_eq!(config.memory.processor, ByteSize::mib(256));
    assert_eq!(config.flush.bytes, ByteSize::mib(1));
    assert_eq!(config.auth.keys.as_deref(), Some(Path::new("keys.toml")));
    assert_eq!(config.auth.keys_text.as_deref(), Some("[[keys]]\nid = 'a'\nname = 'b'\n"));
    assert_eq!(config.datasets["trips"].partitions, 2);
}

#[test]
fn a_mistake_in_the_file_names_line_setting_and_what_is_allowed() {
    for (file, words) in [
        ("[flush]\nevry = '5s'", ["line 2", "evry", "`every`"]),
        ("\n[flush]\nevery = '5x'", ["line 3", "flush.every", "\"5s\""]),
        ("[flush]\nevery = 5", ["line 2", "flush.every", "\"5s\""]),
        ("[flush]\nbytes = 'many'", ["line 2", "flush.bytes", "\"64MiB\""]),
        ("[flush]\nbytes = true", ["line 2", "flush.bytes", "\"64MiB\""]),
        ("[fluhs]\nevery = '5s'", ["line 1", "fluhs", "`flush`"]),
        ("[datasets.x]\ncolumns = { a = 'integer' }", ["line 2", "datasets.x.columns", "double"]),
        ("[datasets.x]\npartitions = -1", ["line 2", "datasets.x.partitions", "u32"]),
        ("flush = '5s'", ["line 1", "flush", "a table of settings"]),
        ("[limits]\nglobal = 5", ["line 2", "limits.global", "events_per_second = 100"]),
        ("[limits]\nper_key = { burst = 5 }", ["line 2", "limits.per_key", "`burst` needs `events_per_second`"]),
        ("[limits]\nper_ip = { bytes_per_second = 'much' }", ["line 2", "limits.per_ip", "\"64MiB\""]),
        ("[limits]\nper_ip = {}", ["line 2", "limits.per_ip", "needs one of them"]),
        ("[limits]\nper_dataset = { bytes_per_second = '2TiB' }", ["line 2", "limits.per_dataset", "1 TiB"]),
        ("[limits.datasets]\nevents = { events_per_second = 0 }", ["line 2", "limits.datasets.events", "above 0"]),
        ("[datasets.x]\npriority = 'urgent'", ["line 2", "datasets.x.priority", "`normal`"]),
        ("[ingest]\ntrusted_proxies = ['10.0.0.0/33']", ["line 2", "ingest.trusted_proxies", "10.0.0.0/8"]),
        ("[ingest]\ntrusted_proxies = '::1'", ["line 2", "ingest.trusted_proxies", "sequence"]),
        ("[ingest]\nproxy_header = 'via'", ["line 2", "ingest.proxy_header", "`x-forwarded-for`"]),
        ("[auth]\nkey = 'keys.toml'", ["line 2", "auth", "`keys`"]),
        ("listen = 'nowhere'", ["line 1", "listen", "127.0.0.1:8080"]),
        ("[flush\nevery = '5s'", ["line 1", "table", "]"]),
    ] {
        let problem = problem(file, &[]);
        assert!(words.iter().all(|word| problem.contains(word)), "{file}\n{problem}");
        assert!(!problem.contains('\n'), "{problem}");
    }
}

#[test]
fn certificates_can_be_given_by_variables_one_by_one() {
    let variables =
        [("LAKEHOSE_TLS_CLIENT_CA", "ca.pem"), ("LAKEHOSE_TLS_KEY", "key.pem"), ("LAKEHOSE_TLS_CERT", "cert.pem")];
    assert!(from("", &variables, Overrides::default()).unwrap().tls.requires_client_certificate());
    let problem = format!("{:#}", from("", &variables[..2], Overrides::default()).unwrap_err());
    assert!(problem.contains("`tls.cert` is missing"), "{problem}");
}

#[test]
fn a_mistake_in_a_variable_names_it_and_what_is_allowed() {
    for (variable, value, words) in [
        ("LAKEHOSE_FLUSH_EVRY", "5s", ["LAKEHOSE_FLUSH_EVRY", "`every`"]),
        ("LAKEHOSE_FLUSH_EVERY", "5x", ["LAKEHOSE_FLUSH_EVERY", "\"5s\""]),
        ("LAKEHOSE_FLUSH_EVERY", "5", ["LAKEHOSE_FLUSH_EVERY", "\"5s\""]),
        ("LAKEHOSE_LIMITS_PER_DEVICE", "{ events_per_second = 0 }", ["LAKEHOSE_LIMITS_PER_DEVICE", "above 0"]),
        ("LAKEHOSE_LIMITS_PER_DEVICE", "{ burst = 5", ["LAKEHOSE_LIMITS_PER_DEVICE", "events_per_second = 100"]),
        ("LAKEHOSE_DATASETS_TRIPS", "{ partition = 2 }", ["LAKEHOSE_DATASETS_TRIPS", "`partitions`"]),
    ] {
        let problem = problem("", &[(variable, value)]);
        assert!(words.iter().all(|word| problem.contains(word)), "{problem}");
    }
}

#[test]
fn a_variable_of_no_section_is_reported_and_ignored() {
    let variables = [("LAKEHOSE_FLSH_EVERY", "5s"), ("LAKEHOSE_EVENTLOG_SERVICE_HOST", "10.0.0.1"), ("HOME", "/")];
    let unknown = apply(&mut toml::Table::new(), variables.iter().map(|(k, v)| (k.to_string(), v.to_string())));
    assert_eq!(unknown.unwrap(), ["LAKEHOSE_FLSH_EVERY"]);
}

#[test]
fn limits_and_proxies_are_set_by_variables_too() {
    let both = "{ events_per_second = 5, bytes_per_second = '1KiB', burst_bytes = '8KiB' }";
    let variables = [
        ("LAKEHOSE_LIMITS_PER_KEY", both),
        ("LAKEHOSE_LIMITS_PER_DATASET", "{ bytes_per_second = '1MiB' }"),
        ("LAKEHOSE_LIMITS_DATASETS", "{ events = { events_per_second = 7 } }"),
        ("LAKEHOSE_INGEST_TRUSTED_PROXIES", "['10.0.0.0/8', '::1']"),
        ("LAKEHOSE_INGEST_PROXY_HEADER", "forwarded"),
    ];
    let config = from("", &variables, Overrides::default()).unwrap();
    let per_key = ingest::Limit::new(5.0, 5).unwrap().and_bytes(ByteSize::kib(1), ByteSize::kib(8)).unwrap();
    assert_eq!(config.limits.per_key, Some(per_key));
    assert!(config.limits.per_dataset.is_some() && config.limits.datasets.contains_key("events"));
    assert_ne!(config.ingest.trusted_proxies, ingest::TrustedProxies::default());
    assert_eq!(config.ingest.proxy_header, ingest::ProxyHeader::Forwarded);
}

#[test]
fn the_documented_limits_can_be_set() {
    let page = include_str!("../../../docs/OPERATIONS.md");
    let (_, section) = page.split_once("## Limits\n").unwrap();
    let example: Vec<&str> = section.lines().skip(1).take_while(|line| !line.is_empty()).collect();
    let config = from(&format!("[datasets.heartbeats]\n{}", example.join("\n")), &[], Overrides::default()).unwrap();
    let ingest::Limits { per_device, per_key, per_ip, per_dataset, global, datasets, .. } = &config.limits;
    assert!([per_device, per_key, per_ip, per_dataset, global].into_iter().all(Option::is_some), "{example:?}");
    assert!(datasets.contains_key("heartbeats"));
}

#[test]
fn the_documented_configuration_has_every_setting() {
    let page = include_str!("../../../docs/OPERATIONS.md");
    let (_, section) = page.split_once("## Configuration\n").unwrap();
    let lines =
        section.lines().skip_while(|line| !line.starts_with("    ")).take_while(|line| !line.starts_with("Of "));
    // What is commented out may be set, too.
    let example: String = lines.map(|line| line.trim_start().trim_start_matches("# ").to_owned() + "\n").collect();
    from(&example, &[], Overrides::default()).unwrap();
    let documented: toml::Table = example.parse().unwrap();
    for section in SECTIONS.iter().filter(|section| **section != "limits") {
        let (section, settings) = match *section {
            "datasets" => ("datasets.heartbeats", &documented["datasets"]["heartbeats"]),
            section => (section, &documented[section]),
        };
        let problem = problem(&format!("[{section}]\nnothing = 1"), &[]);
        let known: Vec<&str> = problem.rsplit("expected").next().unwrap().split('`').skip(1).step_by(2).collect();
        let missing: Vec<&&str> = known.iter().filter(|known| settings.get(**known).is_none()).collect();
        assert!(!known.is_empty() && missing.is_empty(), "[{section}] {missing:?}");
    }
}

#[test]
fn a_limit_of_a_dataset_that_is_not_there_is_refused_by_name() {
    let problem = problem("[datasets.trips]\n[limits.datasets]\ntrisp = { events_per_second = 1 }", &[]);
    assert!(problem.contains("limits.datasets.trisp") && problem.contains("trips"), "{problem}");
}

#[test]
fn a_queue_on_disk_needs_kafka_and_some_room() {
    let brokers = ("LAKEHOSE_KAFKA_BROKERS", "kafka:9092");
    let config = from("", &[brokers, ("LAKEHOSE_SPILL_MAX_BYTES", "1GiB")], Overrides::default()).unwrap();
    assert_eq!(config.spill_directory(), Path::new("lakehose-data/spill"));
    let small = from("[spill]\nmax_bytes = '1MiB'", &[brokers], Overrides::default()).unwrap_err();
    assert!(format!("{small:#}").contains("16 MiB"), "{small:#}");
    let embedded = problem("[spill]\nmax_bytes = '1GiB'", &[]);
    assert!(embedded.contains("spill.max_bytes") && embedded.contains("[kafka] brokers"), "{embedded}");
}

#[test]
fn a_dataset_that_cannot_be_is_refused_by_name() {
    let problem = problem("[datasets.'a/b']", &[]);
    assert!(problem.contains("a/b"), "{problem}");
}

/// The list of sections is written by hand; the type knows them too.
#[test]
fn every_section_can_be_set_by_variables() {
    let problem = problem("nothing = 1", &[]);
    let known: Vec<&str> = problem.split('`').skip(3).step_by(2).collect();
    let options: Vec<String> = OPTIONS.iter().map(|name| name.to_lowercase()).collect();
    for name in known {
        assert!(SECTIONS.contains(&name) || options.iter().any(|option| option == name), "{name}");
    }
}

#[test]
fn every_option_with_a_variable_is_known_to_the_environment() {
    let command = crate::args::Args::command();
    let below = command.get_subcommands().flat_map(|command| command.get_subcommands());
    let commands = command.get_subcommands().chain(below).chain([&command]);
    for argument in commands.flat_map(|command| command.get_arguments()) {
        let Some(variable) = argument.get_env() else { continue };
        let name = variable.to_str().unwrap().strip_prefix("LAKEHOSE_").unwrap();
        assert!(OPTIONS.contains(&name) || name == "KAFKA_BROKERS", "{name}");
    }
}

#[test]
fn a_compactor_that_would_take_files_from_queries_or_uploads_is_refused_in_one_line() {
    let refused = |file: &str, variables: &[(&str, &str)]| {
        format!("{:#}", from(file, variables, Overrides::default()).unwrap_err())
    };
    let orphans = refused("[compaction]\nkeep_orphans = '1h'", &[]);
    assert!(orphans.contains("[compaction]: keep_orphans is 1h") && orphans.contains("at least 13h"), "{orphans}");
    let removed = refused("", &[("LAKEHOSE_COMPACTION_KEEP_REMOVED", "0s")]);
    assert!(removed.contains("[compaction]: keep_removed is 0") && !removed.contains('\n'), "{removed}");
}
