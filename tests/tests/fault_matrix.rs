//! Every cause of an error has a flag of its own, and all who tell of it name the same.
//!
//! Each cause is brought about for real, through a sidecar, and put before the witnesses.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use pillion_policy::authentication::JwtKeys;
use pillion_policy::authorization::Action;
use pillion_tests::black_hole::BlackHole;
use pillion_tests::client::Call;
use pillion_tests::guarded::{Guarded, Rules, paths, policy_of};
use pillion_tests::issuer::rule;
use pillion_tests::refusal::{Refusal, refusing};
use pillion_tests::witness::{Case, Seen};
use pillion_tests::{
    AccessLog, Client, Collector, Failure, Instance, Issuer, Mesh, Reply, Sidecar, Wire, body, eventually,
    wire,
};
use pillion_xds::flag::{Answer, Flag};

/// Causes the project promises to tell apart.
const PROMISED: usize = 25;

/// Most body bytes the sidecar of a stage lets through.
const MOST: usize = 64 << 10;

/// A mesh, a caller in it, and the flags that were proved.
struct Stage {
    mesh: Mesh,
    sidecar: Sidecar,
    log: AccessLog,
    collector: Collector,
    proved: Vec<&'static str>,
}

/// What has a sidecar send the spans of all requests.
fn traced(collector: &Collector) -> [(&'static str, String); 4] {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.grpc)),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc".to_owned()),
        ("OTEL_TRACES_SAMPLER", "always_on".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
    ]
}

impl Stage {
    async fn open(mut mesh: Mesh, args: &[(&str, &str)]) -> Result<Self> {
        let collector = Collector::start().await?;
        for (name, value) in traced(&collector) {
            mesh.set_env(name, &value);
        }
        if mesh.control_plane().is_err() {
            mesh.start().await?;
        }
        let log = AccessLog::new()?;
        let sidecar = mesh.sidecar("caller")?.logging(&log);
        let sidecar = args.iter().fold(sidecar, |sidecar, (flag, value)| sidecar.arg(flag, value));
        Ok(Self { mesh, sidecar: sidecar.start().await?, log, collector, proved: Vec::new() })
    }

    fn get(&self, id: &str, url: &str) -> Call {
        self.sidecar.app().get(url).header("x-request-id", id)
    }

    /// Puts a request that has ended before the witnesses.
    async fn prove(&mut self, flag: &'static str, id: Option<&str>, seen: Seen) -> Result<()> {
        prove(flag, id, seen, (&self.sidecar, &self.log, &self.collector)).await?;
        self.proved.push(flag);
        Ok(())
    }

    /// Proves that a GET ends so.
    async fn get_ends(&mut self, flag: &'static str, url: &str) -> Result<()> {
        let reply = self.get(flag, url).send().await?;
        self.prove(flag, Some(flag), Seen::from(&reply)).await
    }

    /// Proves that bytes sent to the outbound listener are answered so; they carry the flag as their id.
    async fn bytes_end(&mut self, flag: &'static str, bytes: &str) -> Result<()> {
        let answer = wire::exchange(self.sidecar.outbound, bytes.replace("ID", flag)).await?;
        self.prove(flag, Some(flag), Seen::bytes(&answer)).await
    }

    /// Proves that of so many requests at once at least one ends so.
    async fn one_of_ends(&mut self, crowd: usize, flag: &'static str, url: &str) -> Result<()> {
        let clients: Vec<Client> = (0..crowd.div_ceil(200)).map(|_| self.sidecar.app_http2()).collect();
        let mut calls: FuturesUnordered<_> = clients
            .iter()
            .cycle()
            .take(crowd)
            .enumerate()
            .map(|(n, client)| {
                let id = format!("{flag}-{n}");
                let call = client.get(url).header("x-request-id", &id);
                async move { anyhow::Ok((id, call.send().await?)) }
            })
            .collect();
        while let Some(ended) = calls.next().await {
            let (id, reply) = ended?;
            if reply.flag() == flag {
                drop(calls);
                return self.prove(flag, Some(&id), Seen::from(&reply)).await;
            }
        }
        Err(anyhow::anyhow!("none of {crowd} requests ended with {flag}"))
    }
}

async fn prove(
    flag: &str,
    id: Option<&str>,
    seen: Seen,
    (sidecar, log, collector): (&Sidecar, &AccessLog, &Collector),
) -> Result<()> {
    let flag = Flag::from_code(flag).with_context(|| format!("there is no flag {flag}"))?;
    Case { flag, id, seen, sidecar, log, collector }.prove().await
}

fn route_to(host: &str) -> String {
    format!("route: [{{destination: {{host: {host}}}}}]")
}

#[tokio::test]
async fn every_cause_has_a_flag_of_its_own() -> Result<()> {
    let stages = [
        routes_and_policies().boxed(),
        endpoints().boxed(),
        limits().boxed(),
        clients().boxed(),
        silence().boxed(),
        identities().boxed(),
        leaving().boxed(),
    ];
    // All of them to their ends, so that one failure does not hide another.
    let (proved, failed): (Vec<_>, Vec<_>) = join_all(stages).await.into_iter().partition(Result::is_ok);
    ensure!(failed.is_empty(), "{failed:#?}");
    let proved: Vec<&str> = proved.into_iter().flatten().flatten().collect();
    let distinct: BTreeSet<_> = proved.iter().copied().collect();
    ensure!(distinct.len() >= PROMISED, "{} causes: {distinct:?}", distinct.len());
    // What cannot be brought about here is tested where it is decided.
    let missing = Flag::ALL.into_iter().map(Flag::as_str).filter(|code| !distinct.contains(code));
    assert_eq!(missing.collect::<Vec<_>>(), ["-", "TLSOWN"]);
    Ok(())
}

/// What routing and policies say by themselves, and what they say of responses.
async fn routes_and_policies() -> Result<Vec<&'static str>> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    for host in ["unmatched", "subset", "aborted", "delayed", "spent"] {
        mesh.policy.service(host)?;
    }
    let to_app = route_to("app");
    mesh.policy.routes("unmatched", &format!("- match: [{{uri: {{exact: /only}}}}]\n  {to_app}"))?;
    mesh.policy.routes("subset", "- route: [{destination: {host: app, subset: v9}}]")?;
    mesh.policy.resilience("limited", "rateLimit: {requests: 1, per: 1h}")?;
    let limited = mesh.serve("limited", "v1").await?;
    let fault = |fault: &str| format!("- fault: {{{fault}}}\n  {to_app}");
    mesh.policy.routes("aborted", &fault("abort: {percentage: {value: 100}, httpStatus: 418}"))?;
    mesh.policy.routes("delayed", &fault("delay: {percentage: {value: 100}, fixedDelay: 50ms}"))?;
    mesh.policy.routes("spent", &format!("- retries: {{attempts: 1, retryOn: 5xx}}\n  {to_app}"))?;
    let mut failing = mesh.serve("failing", "v1").await?;
    mesh.policy.resilience("failing", "circuitBreaker: {consecutiveFailures: 2, openDuration: 1h}")?;
    let poor = mesh.serve("poor", "v1").await?;
    let budget = "budget: {percent: 1, minRetriesPerSecond: 1, interval: 10s}";
    mesh.policy.resilience("poor", &format!("retry: {{attempts: 1, retryOn: [5xx], {budget}}}"))?;
    let mut stage = Stage::open(mesh, &[]).await?;

    stage.get_ends("NR", "http://unmatched/else").await?;
    stage.get_ends("NC", "http://subset/").await?;
    stage.get_ends("NH", "http://nowhere/").await?;
    stage.get_ends("FI", "http://aborted/").await?;
    stage.get_ends("DI", "http://delayed/").await?;
    stage.get("first", "http://limited/").send().await?.expect(200)?;
    stage.get_ends("RL", "http://limited/").await?;
    stage.get_ends("URX", "http://spent/status/503").await?;
    for _ in 0..2 {
        stage.get("failure", "http://failing/status/500").send().await?.expect(500)?;
    }
    stage.get_ends("BRK", "http://failing/").await?;
    poor.app()?.faults().fail(Failure::status(503));
    let (id, reply) = until_refused(&stage).await?;
    stage.prove("BUD", Some(&id), Seen::from(&reply)).await?;
    failing.kill().await?;
    assert_eq!(limited.stats()?.requests(), 1, "what is refused must not arrive");
    drop(app);
    Ok(stage.proved)
}

/// Calls a destination that always fails until its budget for repetitions is spent.
async fn until_refused(stage: &Stage) -> Result<(String, Reply)> {
    for n in 0..200 {
        let id = format!("poor-{n}");
        let reply = stage.get(&id, "http://poor/").send().await?.expect(503)?;
        if stage.log.line_of(&id).await?.flags == "BUD" {
            return Ok((id, reply));
        }
    }
    Err(anyhow::anyhow!("the budget is never spent"))
}

/// What goes wrong with endpoints.
async fn endpoints() -> Result<Vec<&'static str>> {
    let mut mesh = Mesh::new()?;
    mesh.policy.service("empty")?;
    mesh.serve_nothing("refusing", "v1")?;
    let _hole = BlackHole::dig(mesh.serve_nothing("hole", "v1")?).await?;
    mesh.policy.resilience("hole", "connectTimeout: 300ms\nretry: {attempts: 0}")?;
    let (reset, _streams) = refusing(Refusal::Reset, u64::MAX);
    let _resetting = mesh.serve_raw("resetting", reset).await?;
    mesh.policy.service_speaking("resetting", "http2")?;
    let closing = failing(&mut mesh, "closing", Failure::Close).await?;
    let breaking = failing(&mut mesh, "breaking", Failure::BreakOff).await?;
    let hanging = failing(&mut mesh, "hanging", Failure::Hang).await?;
    mesh.policy.routes("hanging", &format!("- timeout: 300ms\n  {}", route_to("hanging")))?;
    let slow = failing(&mut mesh, "slow", Failure::Hang).await?;
    let tries = "retries: {attempts: 1, perTryTimeout: 200ms, retryOn: reset}";
    mesh.policy.routes("slow", &format!("- {tries}\n  {}", route_to("slow")))?;
    let (strange, _heads) = wire::canned("+OK POP3 ready\r\n\r\n");
    let _strange = mesh.serve_raw("strange", strange).await?;
    let (verbose, _heads) = wire::canned(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70 << 10)));
    let _verbose = mesh.serve_raw("verbose", verbose).await?;
    let mut stage = Stage::open(mesh, &[]).await?;

    stage.get_ends("UH", "http://empty/").await?;
    stage.get_ends("UF", "http://refusing/").await?;
    stage.get_ends("UCT", "http://hole/").await?;
    stage.get_ends("UR", "http://resetting/").await?;
    let reply = stage.sidecar.app().post("http://closing/").header("x-request-id", "UC").body("once").send();
    let reply = reply.await?;
    stage.prove("UC", Some("UC"), Seen::from(&reply)).await?;
    let cut = stage.get("UBO", "http://breaking/").send().await;
    ensure!(cut.is_err(), "a part of a response passes for a whole: {cut:?}");
    stage.prove("UBO", Some("UBO"), Seen::CutOff).await?;
    stage.get_ends("UT", "http://hanging/").await?;
    stage.get_ends("UPT", "http://slow/").await?;
    stage.get_ends("UPE", "http://strange/").await?;
    stage.get_ends("UHL", "http://verbose/").await?;
    drop((closing, breaking, hanging, slow));
    Ok(stage.proved)
}

async fn failing(mesh: &mut Mesh, service: &str, failure: Failure) -> Result<Instance> {
    let app = mesh.serve(service, "v1").await?;
    app.app()?.faults().fail(failure);
    Ok(app)
}

/// What limits before a destination that hangs refuse.
async fn limits() -> Result<Vec<&'static str>> {
    let mut mesh = Mesh::new()?;
    let mut apps = Vec::new();
    for service in ["requests", "pending", "connections", "full", "queue"] {
        apps.push(failing(&mut mesh, service, Failure::Hang).await?);
    }
    let pool = |pool: &str| format!("trafficPolicy: {{connectionPool: {{{pool}}}}}");
    mesh.policy.destination("requests", &pool("http: {http2MaxRequests: 1}"))?;
    mesh.policy
        .destination("pending", &pool("tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}"))?;
    mesh.policy.destination("connections", &pool("tcp: {maxConnections: 1, connectTimeout: 100ms}"))?;
    mesh.policy.resilience("full", "bulkhead: {maxConcurrent: 1, maxPending: 0}")?;
    mesh.policy.resilience("queue", "bulkhead: {maxConcurrent: 1, maxPending: 1, queueTimeout: 200ms}")?;
    // HTTP/2 would do with one connection.
    for service in ["pending", "connections"] {
        mesh.policy.service_speaking(service, "http")?;
    }
    let mut stage = Stage::open(mesh, &[]).await?;
    stage.one_of_ends(2, "UO", "http://requests/").await?;
    stage.one_of_ends(3, "UOP", "http://pending/").await?;
    stage.one_of_ends(2, "UOC", "http://connections/").await?;
    stage.one_of_ends(2, "BHF", "http://full/").await?;
    stage.one_of_ends(2, "BHQ", "http://queue/").await?;
    Ok(stage.proved)
}

/// What clients do wrong.
async fn clients() -> Result<Vec<&'static str>> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let most = MOST.to_string();
    let mut stage =
        Stage::open(mesh, &[("--max-body-bytes", &most), ("--first-request-timeout", "500ms")]).await?;
    stage
        .bytes_end(
            "DPE",
            "POST / HTTP/1.1\r\nHost: app\r\nX-Request-Id: ID\r\nContent-Length: 3\r\n\
             Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        )
        .await?;
    stage.bytes_end("CONN", "CONNECT app:80 HTTP/1.1\r\nHost: app:80\r\nX-Request-Id: ID\r\n\r\n").await?;
    let large = stage.sidecar.app_http2().get("http://app/").header("x-large", &"x".repeat(70 << 10));
    let reply = large.header("x-request-id", "DHL").send().await?;
    stage.prove("DHL", Some("DHL"), Seen::from(&reply)).await?;
    let reached = app.stats()?.requests();
    for (id, client) in [("told-1", stage.sidecar.app()), ("told-2", stage.sidecar.app_http2())] {
        let call = client.post("http://app/").header("x-request-id", id).body(vec![0; MOST + 1]);
        let reply = call.send().await?;
        stage.prove("DBL", Some(id), Seen::from(&reply)).await?;
    }
    assert_eq!(app.stats()?.requests(), reached, "what is announced as too long must not arrive");
    for (id, client) in [("untold-1", stage.sidecar.app()), ("untold-2", stage.sidecar.app_http2())] {
        let pieces = |count| body::chunked(vec![Bytes::from(vec![0; MOST / 4]); count], None);
        client.post("http://app/echo").streaming(pieces(4)).send().await?.expect(200)?;
        let call = client.post("http://app/echo").header("x-request-id", id).streaming(pieces(5));
        let reply = call.send().await?;
        stage.prove("DBL", Some(id), Seen::from(&reply)).await?;
    }
    let left = stage.get("DC", "http://app/delay/60000").limit(Duration::from_millis(300)).send().await;
    ensure!(left.is_err());
    stage.prove("DC", Some("DC"), Seen::CutOff).await?;
    let mut wire = Wire::connect(stage.sidecar.outbound).await?;
    wire.send("GET / HT").await?;
    let answer = wire.rest().await?;
    stage.prove("DET", None, Seen::bytes(&answer)).await?;
    // One that says nothing gets no answer, which it could take for that to its next request.
    assert_eq!(Wire::connect(stage.sidecar.outbound).await?.rest().await?, "");
    Ok(stage.proved)
}

/// What is too quiet: streams, and the control plane.
async fn silence() -> Result<Vec<&'static str>> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let args = [("--stream-idle-timeout", "1s"), ("--hold-timeout", "2s")];
    let mut stage = Stage::open(mesh, &args).await?;
    stage.get("moving", "http://app/stream/200").send().await?.expect(200)?;
    stage.get_ends("SI", "http://app/delay/20000").await?;
    let mut wire = Wire::connect(stage.sidecar.outbound).await?;
    let head = "POST /echo HTTP/1.1\r\nHost: app\r\nX-Request-Id: half\r\nContent-Length: 10\r\n\r\nhalf";
    wire.send(head).await?;
    let answer = wire.rest().await?;
    ensure!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    stage.prove("SI", Some("half"), Seen::bytes(&answer)).await?;

    stage.mesh.control_plane()?.process.freeze().await?;
    stage.get_ends("DSC", "http://later/").await?;
    stage.one_of_ends(1100, "DSO", "http://later/").await?;
    stage.mesh.control_plane()?.process.thaw()?;
    drop(app);
    Ok(stage.proved)
}

/// What identities, policies about them and tokens refuse.
async fn identities() -> Result<Vec<&'static str>> {
    let mut mesh = Mesh::secure(&[])?;
    let plain = mesh.serve("plain", "v1").await?;
    mesh.policy.meshed_pod(&plain.pod, "plain", "v1", plain.address.ip())?;
    let (app, _server) = mesh.serve_meshed("app", "v1").await?;
    let pod = mesh.policy.file(&format!("pod-{}", app.pod));
    let yaml = std::fs::read_to_string(&pod)?;
    let other = yaml.replace("serviceAccountName: app", "serviceAccountName: somebody-else");
    mesh.policy.apply(&format!("pod-{}", app.pod), &other)?;
    let mut stage = Stage::open(mesh, &[]).await?;
    stage.get_ends("TLS", "http://plain/").await?;
    eventually("the other identity is expected", || async {
        let reply = stage.get("other", "http://app/").send().await?;
        ensure!(reply.flag() == "TLSID", "{reply:?}");
        Ok(())
    })
    .await?;
    stage.get_ends("TLSID", "http://app/").await?;

    let authorization = vec![policy_of("deny", Action::Deny, vec![paths(&["/secret"])?])];
    let authentication = vec![rule(JwtKeys::Inline(Issuer::new("one")?.set()))];
    let variables = traced(&stage.collector).map(|(name, value)| format!("{name}={value}"));
    let launcher: Vec<&str> = ["env"].into_iter().chain(variables.iter().map(String::as_str)).collect();
    let rules = Rules { authorization, authentication, ..Rules::default() };
    let shop = Guarded::start_with(rules, |sidecar| sidecar.launched_by(&launcher)).await?;
    for (flag, path, token) in [("AUTHZ", "secret", None), ("JWT", "", Some("Bearer x"))] {
        let call = shop.client().get(&format!("http://app/{path}")).header("x-request-id", flag);
        let call = token.into_iter().fold(call, |call, token| call.header("authorization", token));
        let reply = call.send().await?;
        prove(flag, Some(flag), Seen::from(&reply), (&shop.sidecar, &shop.log, &stage.collector)).await?;
        stage.proved.push(flag);
    }
    Ok(stage.proved)
}

/// What the end of a sidecar cuts off. Its metrics end with it.
async fn leaving() -> Result<Vec<&'static str>> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let mut stage = Stage::open(mesh, &[("--drain-timeout", "500ms")]).await?;
    let slow = stage.get("DRN", "http://app/delay/60000").send();
    let end = async {
        eventually("the request is under way", || async {
            ensure!(app.stats()?.in_flight() == 1);
            Ok(())
        })
        .await?;
        stage.sidecar.process.terminate()
    };
    let (slow, end) = tokio::join!(slow, end);
    end?;
    ensure!(slow.is_err(), "{slow:?}");
    let line = stage.log.line_of("DRN").await?;
    ensure!(line.flags == "DRN" && line.cause.is_some(), "{line:?}");
    stage.proved.push("DRN");
    Ok(stage.proved)
}

#[tokio::test]
async fn grpc_callers_get_the_code_that_the_page_promises() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let _app = mesh.serve("app", "v1").await?;
    mesh.policy.service("empty")?;
    mesh.serve_nothing("refusing", "v1")?;
    mesh.policy.service("unmatched")?;
    let to_app = route_to("app");
    mesh.policy.routes("unmatched", &format!("- match: [{{uri: {{exact: /only}}}}]\n  {to_app}"))?;
    mesh.policy.resilience("limited", "rateLimit: {requests: 1, per: 1h}")?;
    let _limited = mesh.serve("limited", "v1").await?;
    let stage = Stage::open(mesh, &[("--max-body-bytes", "16")]).await?;
    let client = stage.sidecar.app_http2();
    client.get("http://limited/").send().await?.expect(200)?;
    for (flag, host, message) in [
        ("UH", "empty", "message"),
        ("UF", "refusing", "message"),
        ("NR", "unmatched", "message"),
        ("NH", "nowhere", "message"),
        ("RL", "limited", "message"),
        ("DBL", "app", "a message that is too long"),
    ] {
        let call = client.post(&format!("http://{host}/a.B/C")).header("content-type", "application/grpc");
        let reply = call.header("te", "trailers").body(message).send().await?.expect(200)?;
        let answer = Flag::from_code(flag).context("no such flag")?.explanation().answer;
        let Answer::Own(_, code) = answer else { anyhow::bail!("{flag} is no answer of the proxy's") };
        assert_eq!((reply.flag(), reply.header("grpc-status")), (flag, &*code.to_string()));
    }
    Ok(())
}

#[tokio::test]
async fn what_the_app_says_carries_no_flag() -> Result<()> {
    let mut mesh = Mesh::new()?;
    let app = mesh.serve("app", "v1").await?;
    let stage = Stage::open(mesh, &[]).await?;
    for status in [400, 404, 413, 429, 500, 502, 503, 504] {
        let id = status.to_string();
        let url = format!("http://app/status/{status}");
        let reply = stage.get(&id, &url).send().await?.expect(status)?;
        prove("-", Some(&id), Seen::from(&reply), (&stage.sidecar, &stage.log, &stage.collector)).await?;
    }
    app.app()?.faults().fail(Failure::grpc(14));
    let call = stage.sidecar.app_http2().post("http://app/a.B/C").header("x-request-id", "grpc");
    let call = call.header("content-type", "application/grpc").header("te", "trailers").body("message");
    let reply = call.send().await?.expect(200)?;
    assert_eq!(reply.header("grpc-status"), "14");
    prove("-", Some("grpc"), Seen::from(&reply), (&stage.sidecar, &stage.log, &stage.collector)).await
}
