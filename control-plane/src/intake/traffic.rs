//! What a DestinationRule says: subsets, balancing, limits, TLS and ejection in terms of the policy model.
//!
//! A ResiliencePolicy has the same blocks; what only one of the two kinds may say is told apart by the [`Kind`].

use std::{collections::BTreeMap, time::Duration};

use pillion_policy::{
    cluster::{Balancing, ConnectionPool, HashKey, Keepalive, LoadBalancer, Protocol, Warmup},
    header,
    name::Label,
    resilience::{FailurePercentage, OutlierDetection},
    retry::RetryBudget,
};

use super::{
    tls,
    values::{MILLISECOND, at_least, fraction, limit},
};
use crate::{
    api::{self, H2UpgradePolicy, SimpleLb},
    naming::{Exported, HostPattern, Naming},
    object::{DestinationRule, Key, Kind, Pool, Settings, Subset, Traffic},
    problem::Report,
};

/// Fewest points on a hash ring unless a rule says otherwise (Istio's default), and the most it may ask for (Envoy's).
const RING_SIZE: (u32, u64) = (1024, 8 * 1024 * 1024);
/// Bound on `maxRequestsPerConnection` (Istio's).
const MAX_REQUESTS_PER_CONNECTION: u32 = 1 << 29;

pub(super) fn read(
    spec: &api::DestinationRule,
    key: &Key,
    naming: &Naming,
    report: &mut Report,
) -> Option<DestinationRule> {
    let host = report
        .field("host", |report| report.accept(HostPattern::new(&spec.host, key.namespace.as_str(), naming)));
    let exported =
        report.field("exportTo", |report| report.accept(Exported::new(&spec.export_to, &key.namespace)));
    let policy = traffic(spec.traffic_policy.as_ref(), report);
    let subsets = report.field("subsets", |report| subsets(&spec.subsets, report));
    Some(DestinationRule { host: host?, exported: exported?, policy, subsets })
}

fn subsets(subsets: &[api::Subset], report: &mut Report) -> Vec<Subset> {
    let mut read: Vec<Subset> = Vec::new();
    for (index, subset) in subsets.iter().enumerate() {
        report.item(index, |report| {
            let name = report.field("name", |report| report.accept(Label::new(&subset.name)));
            let policy = traffic(subset.traffic_policy.as_ref(), report);
            let Some(name) = name else { return };
            if read.iter().any(|other| other.name == name) {
                report.field("name", |report| report.error(format!("subset {name} is defined twice")));
            }
            if subset.labels.is_empty() {
                report.warn("without labels the subset is the whole host");
            }
            read.push(Subset { name, labels: super::labels(&subset.labels), policy });
        });
    }
    read
}

fn traffic(policy: Option<&api::TrafficPolicy>, report: &mut Report) -> Option<Traffic> {
    let policy = policy?;
    report.field("trafficPolicy", |report| {
        let later = policy.tunnel.to_check().is_some() || policy.proxy_protocol.to_check().is_some();
        let now = policy.load_balancer.is_some()
            || policy.connection_pool.is_some()
            || policy.tls.is_some()
            || policy.outlier_detection.is_some()
            || policy.retry_budget.is_some();
        if !now && !later && policy.port_level_settings.is_empty() {
            report.error("it has no field: leave it out");
        }
        if policy.tunnel.to_check().is_some() && policy.proxy_protocol.to_check().is_some() {
            report.error("only one of tunnel and proxyProtocol can be given");
        }
        let mut all = Settings {
            balancing: balancing(policy.load_balancer.as_ref(), Kind::DestinationRule, report),
            pool: connection_pool(policy.connection_pool.as_ref(), report),
            tls: tls::read(policy.tls.as_ref(), report),
            outlier: outlier(policy.outlier_detection.as_ref(), Kind::DestinationRule, report),
            ..Settings::default()
        };
        let budget = policy.retry_budget;
        all.budget = budget.and_then(|given| report.field("retryBudget", |report| budget_of(given, report)));
        let ports = report.field("portLevelSettings", |report| port_settings(policy, report));
        Some(Traffic { all, ports })
    })
}

fn port_settings(policy: &api::TrafficPolicy, report: &mut Report) -> BTreeMap<u16, Settings> {
    let has_tls = policy.tls.is_some();
    let mut ports = BTreeMap::new();
    for (index, entry) in policy.port_level_settings.iter().enumerate() {
        report.item(index, |report| {
            let settings = Settings {
                balancing: balancing(entry.load_balancer.as_ref(), Kind::DestinationRule, report),
                pool: connection_pool(entry.connection_pool.as_ref(), report),
                tls: tls::read(entry.tls.as_ref(), report),
                outlier: outlier(entry.outlier_detection.as_ref(), Kind::DestinationRule, report),
                ..Settings::default()
            };
            if has_tls && entry.tls.is_none() {
                report.warn(
                    "the port does not inherit the tls of the rule: without its own, that is automatic",
                );
            }
            match entry.port.map(|port| port.number) {
                None | Some(0) => report.field("port", |report| report.error("port.number is needed")),
                Some(port) if ports.contains_key(&port) => {
                    report.field("port", |report| report.error(format!("port {port} stands here twice")));
                }
                Some(port) => {
                    ports.insert(port, settings);
                }
            }
        });
    }
    ports
}

/// When endpoints are left alone.
pub(super) fn outlier(
    detection: Option<&api::OutlierDetection>,
    kind: Kind,
    report: &mut Report,
) -> Option<OutlierDetection> {
    let given = detection?;
    report.field("outlierDetection", |report| {
        let defaults = OutlierDetection::default();
        percent("maxEjectionPercent", given.max_ejection_percent.map(f64::from), report);
        percent("minHealthPercent", given.min_health_percent.map(f64::from), report);
        let split = given.split_external_local_origin_errors.unwrap_or(false);
        if given.consecutive_local_origin_failures.is_some() && !split {
            report.field("consecutiveLocalOriginFailures", |report| {
                report.error("needs splitExternalLocalOriginErrors: true");
            });
        }
        if let Some(errors) = given.consecutive_errors {
            report.field("consecutiveErrors", |report| match given.consecutive_gateway_errors {
                None => report.info(format!(
                    "deprecated, use consecutiveGatewayErrors or consecutive5xxErrors; read as \
                     consecutiveGatewayErrors: {errors}"
                )),
                Some(_) => report.info("deprecated and not used: consecutiveGatewayErrors is given"),
            });
        }
        if given.max_ejection_percent == Some(0) {
            report.field("maxEjectionPercent", |report| report.info("0 is as good as unset: it is 10"));
        }
        let base = at_least("baseEjectionTime", MILLISECOND, given.base_ejection_time, report);
        let base = base.unwrap_or(defaults.base_ejection_time);
        let byte = |value: i32| u8::try_from(value).unwrap_or_default();
        let consecutive_5xx = if given.consecutive_errors.is_some() { 0 } else { defaults.consecutive_5xx };
        Some(OutlierDetection {
            consecutive_5xx: given.consecutive_5xx_errors.unwrap_or(consecutive_5xx),
            consecutive_gateway_errors: given
                .consecutive_gateway_errors
                .or(given.consecutive_errors)
                .unwrap_or(defaults.consecutive_gateway_errors),
            split_local_origin: split,
            consecutive_local_origin: given
                .consecutive_local_origin_failures
                .unwrap_or(defaults.consecutive_local_origin),
            failure_percentage: failure_percentage(given, kind, report),
            interval: at_least("interval", MILLISECOND, given.interval, report).unwrap_or(defaults.interval),
            base_ejection_time: base,
            max_ejection_time: defaults.max_ejection_time.max(base),
            max_ejection_percent: given.max_ejection_percent.map(byte).filter(|percent| *percent > 0),
            min_health_percent: given.min_health_percent.map(byte).unwrap_or_default(),
        })
    })
}

/// Ejection by the share of failures: Envoy's words, which Istio has not.
fn failure_percentage(
    given: &api::OutlierDetection,
    kind: Kind,
    report: &mut Report,
) -> Option<FailurePercentage> {
    let fields = [
        ("failurePercentageThreshold", given.failure_percentage_threshold),
        ("failurePercentageMinimumHosts", given.failure_percentage_minimum_hosts),
        ("failurePercentageRequestVolume", given.failure_percentage_request_volume),
    ];
    if kind != Kind::ResiliencePolicy {
        for (field, _) in fields.iter().filter(|(_, value)| value.is_some()) {
            report.field(field, |report| {
                report.error("not a field of Istio's: only a ResiliencePolicy has it")
            });
        }
        return None;
    }
    percent("failurePercentageThreshold", given.failure_percentage_threshold.map(f64::from), report);
    fields.iter().any(|(_, value)| value.is_some()).then(|| FailurePercentage {
        threshold: given
            .failure_percentage_threshold
            .and_then(|share| u8::try_from(share).ok())
            .unwrap_or(85),
        minimum_hosts: given.failure_percentage_minimum_hosts.unwrap_or(5),
        request_volume: given.failure_percentage_request_volume.unwrap_or(50),
    })
}

/// Istio's retry budget.
fn budget_of(budget: api::RetryBudget, report: &mut Report) -> Option<RetryBudget> {
    let share = report.field("percent", |report| fraction(Some(budget.percent.unwrap_or(20.0)), report))?;
    Some(RetryBudget::Concurrency {
        share,
        min_concurrency: budget.min_retry_concurrency.unwrap_or(3),
        interval: budget.budget_interval.map_or(Duration::ZERO, |interval| interval.0),
    })
}

fn percent(field: &str, value: Option<f64>, report: &mut Report) {
    if let Some(value) = value.filter(|value| !(0.0..=100.0).contains(value)) {
        report.field(field, |report| {
            report.error(format!("{value} is not a percentage between 0 and 100"));
        });
    }
}

/// How an endpoint is chosen.
pub(super) fn balancing(
    balancer: Option<&api::LoadBalancer>,
    kind: Kind,
    report: &mut Report,
) -> Option<Balancing> {
    let balancer = balancer?;
    report.field("loadBalancer", |report| {
        let policy = match (balancer.simple, &balancer.consistent_hash) {
            (Some(_), Some(_)) => {
                report.error("only one of simple and consistentHash can be given");
                return None;
            }
            (None, Some(hash)) => report.field("consistentHash", |report| consistent_hash(hash, report))?,
            (simple, None) => report.field("simple", |report| simple_balancer(simple, kind, report)),
        };
        let warmup = warmup(balancer, report);
        if warmup.is_some() && !matches!(policy, LoadBalancer::RoundRobin | LoadBalancer::LeastRequest) {
            report.field("warmup", |report| report.error("only possible with ROUND_ROBIN and LEAST_REQUEST"));
        }
        Some(Balancing { policy, warmup })
    })
}

fn simple_balancer(simple: Option<SimpleLb>, kind: Kind, report: &mut Report) -> LoadBalancer {
    match simple {
        Some(SimpleLb::RoundRobin) => LoadBalancer::RoundRobin,
        Some(SimpleLb::Random) => LoadBalancer::Random,
        Some(SimpleLb::PeakEwma) => {
            if kind != Kind::ResiliencePolicy {
                report.error("PEAK_EWMA is not Istio's: only a ResiliencePolicy can ask for it");
            }
            LoadBalancer::PeakEwma
        }
        Some(SimpleLb::LeastConn) => {
            report.info("LEAST_CONN is deprecated, use LEAST_REQUEST");
            LoadBalancer::LeastRequest
        }
        Some(SimpleLb::Passthrough) => {
            report.warn("accepted, not enforced yet: PASSTHROUGH (LEAST_REQUEST is used)");
            LoadBalancer::LeastRequest
        }
        Some(SimpleLb::LeastRequest | SimpleLb::Unspecified) | None => LoadBalancer::LeastRequest,
    }
}

fn consistent_hash(hash: &api::ConsistentHash, report: &mut Report) -> Option<LoadBalancer> {
    let mut keys = Vec::new();
    if let Some(name) = &hash.http_header_name {
        let name = report.field("httpHeaderName", |report| report.accept(header::name(name)));
        keys.push(HashKey::Header(name?));
    }
    if let Some(cookie) = &hash.http_cookie {
        report.field("httpCookie", |report| check_cookie(cookie, report));
        let ttl = cookie.ttl.map(|ttl| ttl.0);
        keys.push(HashKey::Cookie { name: cookie.name.clone(), path: cookie.path.clone(), ttl });
    }
    if hash.use_source_ip {
        keys.push(HashKey::SourceIp);
    }
    if let Some(name) = &hash.http_query_parameter_name {
        keys.push(HashKey::Query(name.clone()));
    }
    if keys.len() != 1 {
        report.error(
            "exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName is needed",
        );
    }
    let asked = hash.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size).or(hash.minimum_ring_size);
    let (default, most) = RING_SIZE;
    let minimum_size = match asked.unwrap_or_default() {
        0 => default,
        size if size <= most => u32::try_from(size).unwrap_or(default),
        size => {
            report.error(format!("a ring of {size} is too large, the most is {most}"));
            default
        }
    };
    keys.pop().map(|key| LoadBalancer::RingHash { key, minimum_size })
}

/// What is made up goes into `Set-Cookie` (RFC 6265 §4.1.1): a name is a token, as that of a header is.
fn check_cookie(cookie: &api::HttpCookie, report: &mut Report) {
    if cookie.name.is_empty() {
        report.error("the cookie needs a name");
    } else if header::name(&cookie.name).is_err() {
        report.field("name", |report| report.error(format!("{:?} is not a name of a cookie", cookie.name)));
    }
    let odd = |char: char| char == ';' || !matches!(char, ' '..='~');
    if let Some(path) = cookie.path.as_deref().filter(|path| path.contains(odd)) {
        report.field("path", |report| report.error(format!("{path:?} is not a path of a cookie")));
    }
}

fn warmup(balancer: &api::LoadBalancer, report: &mut Report) -> Option<Warmup> {
    if balancer.warmup_duration_secs.is_some() {
        report.field("warmupDurationSecs", |report| match balancer.warmup {
            Some(_) => report.error("only one of warmupDurationSecs and warmup can be given"),
            None => report.info("deprecated, use warmup.duration"),
        });
    }
    let described = balancer.warmup.clone().unwrap_or_default();
    let duration = described.duration.or(balancer.warmup_duration_secs);
    report.field("warmup", |report| {
        percent("minimumPercent", described.minimum_percent, report);
        let aggression = described.aggression.unwrap_or(1.0);
        if !(1.0..=1000.0).contains(&aggression) {
            report.field("aggression", |report| report.error("must be between 1 and 1000"));
        }
        if balancer.warmup.is_some() && duration.is_none_or(|duration| duration.0.is_zero()) {
            report.error("duration is needed");
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a range the integers hold"
        )]
        Some(Warmup {
            duration: duration?.0,
            minimum_percent: described.minimum_percent.unwrap_or(10.0).clamp(0.0, 100.0).round() as u8,
            aggression_thousandths: (aggression.clamp(1.0, 1000.0) * 1000.0).round() as u32,
        })
    })
}

/// Limits and timeouts of connections.
pub(super) fn connection_pool(pool: Option<&api::ConnectionPool>, report: &mut Report) -> Option<Pool> {
    pool.map(|pool| report.field("connectionPool", |report| read_pool(pool, report)))
}

fn read_pool(pool: &api::ConnectionPool, report: &mut Report) -> Pool {
    let mut read = ConnectionPool::default();
    if pool.tcp.is_none() && pool.http.is_none() {
        report.error("it has no field: leave it out");
    }
    let mut bound = |group: &str, field: &str, value: Option<i32>, into: &mut u32| {
        let value = report.field(group, |report| report.field(field, |report| limit(value, report)));
        *into = value.unwrap_or(*into);
    };
    if let Some(tcp) = &pool.tcp {
        bound("tcp", "maxConnections", tcp.max_connections, &mut read.max_connections);
        read.connect_timeout = tcp.connect_timeout.map_or(read.connect_timeout, |timeout| timeout.0);
        read.tcp_idle_timeout = tcp.idle_timeout.map_or(read.tcp_idle_timeout, |timeout| timeout.0);
        read.max_connection_duration = tcp.max_connection_duration.map(|duration| duration.0);
        read.keepalive = tcp.tcp_keepalive.map(|keepalive| Keepalive {
            probes: keepalive.probes,
            time: keepalive.time.map(|time| time.0),
            interval: keepalive.interval.map(|interval| interval.0),
        });
    }
    if let Some(http) = &pool.http {
        bound("http", "http1MaxPendingRequests", http.http1_max_pending_requests, &mut read.max_pending);
        bound("http", "http2MaxRequests", http.http2_max_requests, &mut read.max_requests);
        let per_connection = http.max_requests_per_connection;
        bound("http", "maxRequestsPerConnection", per_connection, &mut read.max_requests_per_connection);
        bound("http", "maxConcurrentStreams", http.max_concurrent_streams, &mut read.max_concurrent_streams);
        read.idle_timeout = http.idle_timeout.map_or(read.idle_timeout, |timeout| timeout.0);
    }
    report.field("tcp", |report| {
        if read.connect_timeout.is_zero() {
            report.field("connectTimeout", |report| report.error("must be longer than 0"));
        }
    });
    report.field("http", |report| {
        if read.max_requests_per_connection > MAX_REQUESTS_PER_CONNECTION {
            report.field("maxRequestsPerConnection", |report| {
                report.error(format!("the most is {MAX_REQUESTS_PER_CONNECTION}"));
            });
        }
    });
    let max_retries = pool.http.as_ref().and_then(|http| http.max_retries);
    let max_retries =
        report.field("http", |report| report.field("maxRetries", |report| limit(max_retries, report)));
    Pool {
        limits: read,
        connect_timeout: pool.tcp.as_ref().and_then(|tcp| tcp.connect_timeout).map(|timeout| timeout.0),
        max_retries,
        protocol: pool.http.as_ref().and_then(upstream_protocol),
    }
}

/// What the settings ask to be spoken upstream: the client's version beats the upgrade, as in Istio.
fn upstream_protocol(http: &api::HttpSettings) -> Option<Protocol> {
    match (http.use_client_protocol, http.h2_upgrade_policy) {
        (true, _) => Some(Protocol::Auto),
        (false, Some(H2UpgradePolicy::Upgrade)) => Some(Protocol::Http2),
        (false, Some(H2UpgradePolicy::Default | H2UpgradePolicy::DoNotUpgrade) | None) => None,
    }
}
