//! One trace over a chain of services: front → order → payment and inventory, each with a sidecar, seen by a collector.
//!
//! Where a real collector is installed (see `pillion_tests::collector`), it stands between the sidecars and what the test looks
//! at.

use anyhow::{Context, Result, ensure};
use pillion_tests::{Client, Collector, Instance, Mesh, Sidecar, collector::Agent, collector::Span};

/// What the chain consists of, kept alive.
struct Chain {
    collector: Collector,
    _agent: Option<Agent>,
    _mesh: Mesh,
    _pods: Vec<(Instance, Sidecar)>,
    caller: Client,
    _caller: Sidecar,
}

/// Spans of one visit: for each call the one of the caller, its try, and the one of the pod that is called.
const CALLS: usize = 4;
const SPANS: usize = CALLS * 3;

impl Chain {
    async fn start() -> Result<Self> {
        let collector = Collector::start().await?;
        let agent = collector.behind().await?;
        let mut mesh = Mesh::new()?;
        let endpoint = agent.as_ref().map_or(collector.grpc, |agent| agent.grpc);
        mesh.set_env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{endpoint}"));
        mesh.set_env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        mesh.set_env("OTEL_BSP_SCHEDULE_DELAY", "100");
        let mut pods =
            vec![mesh.serve_meshed("payment", "v1").await?, mesh.serve_meshed("inventory", "v1").await?];
        pods.push(mesh.serve_calling("order", &["payment", "inventory"]).await?);
        pods.push(mesh.serve_calling("front", &["order"]).await?);
        let (sidecar, caller) = mesh.caller().await?;
        Ok(Self { collector, _agent: agent, _mesh: mesh, _pods: pods, caller, _caller: sidecar })
    }

    /// The trace of one visit with these header fields, once it is whole.
    async fn visit(&self, trace_id: &str, fields: &[(&str, &str)]) -> Result<Vec<Span>> {
        let mut call = self.caller.get("http://front/");
        for (name, value) in fields {
            call = call.header(name, value);
        }
        call.send().await?.expect(200)?;
        self.collector.complete_trace(trace_id, SPANS).await
    }
}

/// Follows the parents of a span up to one that is not among the spans: the services on the way, and that last parent.
fn ancestry<'a>(trace: &'a [Span], leaf: &'a Span) -> (Vec<&'a str>, &'a str) {
    let mut services = vec![leaf.service.as_str()];
    let mut at = leaf;
    for _ in 0..trace.len() {
        let Some(parent) = trace.iter().find(|span| span.span_id == at.parent) else { break };
        if services.last() != Some(&parent.service.as_str()) {
            services.push(&parent.service);
        }
        at = parent;
    }
    (services, &at.parent)
}

/// Every link of the chain is there, up to the span the user came with.
fn check(trace: &[Span], user: &str) -> Result<()> {
    let tree = Span::tree(trace);
    for leaf in ["payment", "inventory"] {
        let server = trace.iter().find(|span| span.service == leaf && span.kind == "server");
        let server = server.with_context(|| format!("no server span of {leaf}:\n{tree}"))?;
        let (services, root) = ancestry(trace, server);
        ensure!(services == [leaf, "order", "front", "caller"], "the way to {leaf} is {services:?}:\n{tree}");
        ensure!(root == user, "the trace begins under {root:?}, not {user:?}:\n{tree}");
    }
    for span in trace {
        let is_known = span.parent == user || trace.iter().any(|other| other.span_id == span.parent);
        ensure!(is_known, "{} of {} has an unknown parent {}:\n{tree}", span.name, span.service, span.parent);
        ensure!(!span.is_error, "{} of {} is an error:\n{tree}", span.name, span.service);
    }
    let servers = trace.iter().filter(|span| span.kind == "server");
    for server in servers {
        let parent = trace.iter().find(|span| span.span_id == server.parent).context("no parent")?;
        ensure!(parent.service != server.service, "a server span is under its own service:\n{tree}");
        let begun = parent.start <= server.start;
        ensure!(begun, "{} begins before its caller's try:\n{tree}", server.service);
    }
    Ok(())
}

#[tokio::test]
async fn one_trace_holds_the_whole_chain() -> Result<()> {
    let chain = Chain::start().await?;
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let parent = format!("00-{trace}-{span}-01");
    let fields =
        [("traceparent", parent.as_str()), ("tracestate", "vendor=opaque,other=1"), ("baggage", "user=7")];
    let spans = chain.visit(trace, &fields).await?;
    check(&spans, span)?;
    ensure!(spans.len() == SPANS, "{} spans, not {SPANS}:\n{}", spans.len(), Span::tree(&spans));
    Ok(())
}

#[tokio::test]
async fn callers_that_speak_b3_keep_their_trace() -> Result<()> {
    let chain = Chain::start().await?;
    let (trace, span) = ("80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1");
    let spans = chain.visit(trace, &[("b3", &format!("{trace}-{span}-1"))]).await?;
    check(&spans, span)?;

    let (trace, span) = ("463ac35c9f6413ad48485a3953bb6124", "0020000000000001");
    let fields = [("x-b3-traceid", trace), ("x-b3-spanid", span), ("x-b3-sampled", "1")];
    let spans = chain.visit(trace, &fields).await?;
    check(&spans, span)?;

    // Half as long, as old libraries make them.
    let (trace, span) = ("a3ce929d0e0e4736", "00f067aa0ba902b7");
    let spans = chain.visit(&format!("{:0>32}", trace), &[("b3", &format!("{trace}-{span}-1"))]).await?;
    check(&spans, span)
}
