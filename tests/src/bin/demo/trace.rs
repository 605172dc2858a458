//! The chapter on traces: one visit of the shop, followed over every hop.

use anyhow::{Result, ensure};
use pillion_tests::{Client, Collector, collector::Span, eventually};

use crate::cast::{API, PODS};
use crate::claims::Outcome;
use crate::screen::Screen;
use crate::stage::{Stage, Telemetry};

/// The trace of the visit and the span the user's own client would have.
const TRACE: &str = "5b8aa5a2d2c872e8321cf37308d69df2";
const USER: &str = "051581bf3cb55c13";

/// How many services a visit calls.
const CALLED: usize = 4;

/// Plays the chapter.
pub(crate) async fn play(stage: &Stage, screen: &Screen, outcome: &mut Outcome) -> Result<()> {
    screen.say("\nOne visit is traced: the user's client says so in `traceparent`, and every sidecar goes on with it.");
    let client = Client::http1(API.inbound());
    let parent = format!("00-{TRACE}-{USER}-01");
    client.get("http://api/").header("traceparent", &parent).send().await?.expect(200)?;
    match stage.telemetry()? {
        Telemetry::Own(collector) => told(collector, screen, outcome).await,
        Telemetry::Users { endpoint, .. } => {
            screen.say(&format!("  look for trace {TRACE} in what receives at {endpoint}"));
            Ok(())
        }
    }
}

/// The trace as a tree, and whether every call is in its place.
async fn told(collector: &Collector, screen: &Screen, outcome: &mut Outcome) -> Result<()> {
    // A pod's spans bear the name of its workload, which is the pod's here.
    let pods: Vec<&str> = PODS.iter().filter(|pod| pod.service != API.service).map(|pod| pod.name).collect();
    let served = |spans: &[Span]| {
        spans.iter().filter(|span| span.kind == "server" && pods.contains(&span.service.as_str())).count()
    };
    let spans = eventually("the trace is complete", || async {
        let spans = collector.trace(TRACE);
        ensure!(served(&spans) == CALLED, "the trace has come as far as\n{}", Span::tree(&spans));
        ensure!(spans.iter().any(|span| span.parent == USER), "the first span is still to come");
        Ok(spans)
    })
    .await?;
    for line in Span::tree(&spans).lines() {
        screen.say(&format!("  {line}"));
    }
    let is_known =
        |span: &&Span| span.parent == USER || spans.iter().any(|other| other.span_id == span.parent);
    let known = spans.iter().filter(is_known).count();
    outcome.figure("trace_spans", spans.len());
    let text = format!("{known} of {} spans of the trace hang on their caller's", spans.len());
    outcome.claim(screen, known == spans.len(), text);
    Ok(())
}
