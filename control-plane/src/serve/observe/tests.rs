use pillion_xds::{
    Node,
    client::Session,
    discovery::{
        DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    observe::{Question, observation_client::ObservationClient},
    story::Attempt,
};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use super::{attach::Open, *};
use crate::{
    index::Index,
    metrics::Metrics,
    naming::Naming,
    serve::{self, State},
};

const LONG: Duration = Duration::from_secs(20);

fn observer(workload: &str, ip: &str) -> Observer {
    Observer { id: 0, workload: workload.to_owned(), ip: ip.parse().ok(), ask: None }
}

fn story(direction: &str, start: &str, endpoints: &[&str]) -> Story {
    let attempts =
        endpoints.iter().map(|endpoint| Attempt { endpoint: (*endpoint).to_owned(), ..Attempt::default() });
    Story {
        request_id: "a".to_owned(),
        direction: direction.to_owned(),
        start: start.to_owned(),
        attempts: attempts.collect(),
        ..Story::default()
    }
}

/// Who tells each hop, and how deep it lies.
fn order(answers: Vec<(Observer, Vec<Story>)>) -> Vec<String> {
    let told = told::explanation("a", answers, Silence::default()).stories;
    told.iter().map(|hop| format!("{} {} {}", hop.depth, hop.told_by, hop.story.direction)).collect()
}

#[test]
fn hops_follow_those_they_came_of() {
    let web = vec![story("outbound", "t1", &["10.0.0.8:80", "10.0.0.2:80"])];
    // Its clock is behind, and it calls two others.
    let front = vec![
        story("inbound", "t0", &["127.0.0.1:9000"]),
        story("outbound", "t0a", &["10.0.0.3:80"]),
        story("outbound", "t0b", &["10.0.0.4:80"]),
    ];
    let order_ = vec![story("inbound", "t3", &[])];
    let user = vec![story("inbound", "t2", &[])];
    let told = order(vec![
        (observer("s/user", "10.0.0.4"), user),
        (observer("s/order", "10.0.0.3"), order_),
        (observer("s/front", "10.0.0.2"), front),
        (observer("s/web", "10.0.0.1"), web),
    ]);
    assert_eq!(
        told,
        [
            "0 s/web@10.0.0.1 outbound",
            "1 s/front@10.0.0.2 inbound",
            "2 s/front@10.0.0.2 outbound",
            "3 s/order@10.0.0.3 inbound",
            "2 s/front@10.0.0.2 outbound",
            "3 s/user@10.0.0.4 inbound",
        ]
    );
}

#[test]
fn every_hop_is_told_once_even_in_a_circle() {
    // A service that calls itself, as seen by two clocks that disagree.
    let a = vec![story("inbound", "t1", &[]), story("outbound", "t2", &["10.0.0.2:80"])];
    let b = vec![story("inbound", "t1", &[]), story("outbound", "t2", &["10.0.0.1:80"])];
    let told = order(vec![(observer("s/a", "10.0.0.1"), a), (observer("s/b", "10.0.0.2"), b)]);
    assert_eq!(told.len(), 4, "{told:?}");
    let lonely = order(vec![(observer("s/a", ""), vec![story("inbound", "t1", &[]); 3])]);
    assert_eq!(lonely, ["0 s/a inbound"; 3]);
}

#[test]
fn causes_of_one_workload_are_added_up() {
    let cause = |flag: &str, count, last: &str| Cause {
        flag: flag.to_owned(),
        count,
        last: last.to_owned(),
        request_id: last.to_owned(),
        ..Cause::default()
    };
    let answers = vec![
        (observer("s/a", "10.0.0.1"), vec![cause("UF", 3, "t1"), cause("NR", 4, "t1")]),
        (observer("s/a", "10.0.0.2"), vec![cause("UF", 5, "t2")]),
        (observer("s/b", "10.0.0.3"), vec![cause("UF", 6, "t0")]),
    ];
    let told = told::causes(Duration::from_secs(60), answers, Silence::default());
    assert_eq!((told.within_seconds, told.total), (60, 18));
    let lines = told.causes.iter().map(|cause| (&*cause.flag, &*cause.from, cause.count, &*cause.request_id));
    assert_eq!(
        lines.collect::<Vec<_>>(),
        [("UF", "s/a", 8, "t2"), ("UF", "s/b", 6, "t0"), ("NR", "s/a", 4, "t1")]
    );
}

#[test]
fn questions_end_with_their_last_answer_or_when_nobody_waits() {
    let mut open = Open::default();
    let (replies, mut received) = mpsc::channel(1);
    let ask = |replies: &mpsc::Sender<(u64, Answer)>| Posed {
        ask: Ask::Figures(observe::Figures {}),
        reply: ReplyTo { observer: 7, replies: replies.clone(), left_out: 0 },
    };
    assert_eq!(open.ask(ask(&replies)).len(), 1);
    let told = |id, last| Answer { id, json: b"1".to_vec(), last, ..Answer::default() };
    // There is room for one; the next one that finds room says what was left out.
    assert!(open.answer(told(1, false)).is_empty());
    assert!(open.answer(told(1, false)).is_empty());
    assert!(open.answer(told(2, false)).is_empty(), "nobody has asked that");
    assert_eq!(received.try_recv().unwrap(), (7, told(1, false)));
    assert!(open.answer(told(1, true)).is_empty());
    assert_eq!(received.try_recv().unwrap().1.left_out, 1);
    assert!(open.questions.is_empty());

    assert_eq!(open.ask(ask(&replies)).len(), 1);
    drop(received);
    let said = open.sweep();
    assert_eq!((said.len(), said[0].id), (1, 2));
    assert!(matches!(said[0].ask, Some(Ask::Cancel(_))));

    let (replies, _received) = mpsc::channel(1);
    let asked = (0..100).filter(|_| !open.ask(ask(&replies)).is_empty()).count();
    assert_eq!(asked, open.questions.len());
    assert!(asked < 100);
}

/// A control plane that serves proxies in plain text.
struct Plane {
    observatory: Observatory,
    channel: Channel,
    address: std::net::SocketAddr,
    _updates: mpsc::Sender<crate::source::Update>,
    _parts: JoinSet<()>,
}

async fn plane() -> Plane {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = <crate::config::Config as clap::Parser>::try_parse_from(["x", "--source", "dir:/"]).unwrap();
    let index = Index::new(Naming::new(&config.cluster_domain));
    let state = State::new(index, config.settings(), Metrics::new());
    let (hub, queue) = Hub::new();
    let (updates, changes) = mpsc::channel(1);
    let mut parts = JoinSet::new();
    parts.spawn(serve::run(state, changes, queue));
    let served = serve::serve(listener, hub.clone(), std::future::pending());
    parts.spawn(async move { served.await.unwrap() });
    let channel = connect(address).await;
    Plane { observatory: Observatory::new(hub), channel, address, _updates: updates, _parts: parts }
}

async fn connect(address: std::net::SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    timeout(LONG, endpoint.connect()).await.unwrap().unwrap()
}

/// A proxy that is connected, and says who it is.
struct Proxy {
    channel: Channel,
    _requests: mpsc::Sender<DeltaDiscoveryRequest>,
    _responses: Streaming<pillion_xds::discovery::DeltaDiscoveryResponse>,
}

impl Proxy {
    async fn connect(channel: Channel, workload: &str, ip: &str) -> Self {
        let mut node = Node::new(workload.parse().unwrap());
        node.metadata.insert("pod_ip".to_owned(), ip.to_owned());
        let mut session = Session::new(node);
        session.connected();
        let (requests, outgoing) = mpsc::channel(64);
        for request in session.requests() {
            requests.send(request).await.unwrap();
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
        let opened = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap();
        let mut responses = opened.into_inner();
        // An answer means that it is known.
        timeout(LONG, responses.message()).await.unwrap().unwrap().unwrap();
        Self { channel, _requests: requests, _responses: responses }
    }

    async fn attach(&self) -> Result<(mpsc::Sender<Answer>, Streaming<Question>), Status> {
        attach(&self.channel).await
    }
}

async fn attach(channel: &Channel) -> Result<(mpsc::Sender<Answer>, Streaming<Question>), Status> {
    let (answers, outgoing) = mpsc::channel(64);
    let mut client = ObservationClient::new(channel.clone());
    let questions = timeout(LONG, client.attach(ReceiverStream::new(outgoing))).await.unwrap()?;
    Ok((answers, questions.into_inner()))
}

async fn next(questions: &mut Streaming<Question>) -> Question {
    timeout(LONG, questions.message()).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn who_has_no_discovery_stream_cannot_attach() {
    let plane = plane().await;
    assert_eq!(attach(&plane.channel).await.unwrap_err().code(), Code::FailedPrecondition);
    let proxy = Proxy::connect(plane.channel.clone(), "s/a", "10.0.0.1").await;
    assert!(proxy.attach().await.is_ok());
    // The way goes with the stream.
    drop(proxy);
    let gone = async { while plane.observatory.figures().await.unwrap().silence.asked > 0 {} };
    timeout(LONG, gone).await.unwrap();
}

#[tokio::test]
async fn everybody_is_asked_and_who_is_silent_is_named() {
    let plane = plane().await;
    let first = Proxy::connect(plane.channel.clone(), "s/a", "10.0.0.1").await;
    let second = Proxy::connect(connect(plane.address).await, "s/b", "10.0.0.2").await;
    let _third = Proxy::connect(connect(plane.address).await, "s/c", "10.0.0.3").await;
    let (answers, mut questions) = first.attach().await.unwrap();
    let _silent = second.attach().await.unwrap();
    let asking = plane.observatory.explain("a");
    let answering = async {
        let question = next(&mut questions).await;
        assert!(matches!(&question.ask, Some(Ask::Explain(ask)) if ask.request_id == "a"));
        let json = serde_json::to_vec(&[story("outbound", "t", &[])]).unwrap();
        answers.send(Answer { id: question.id, json, last: true, ..Answer::default() }).await.unwrap();
    };
    let (told, ()) = tokio::join!(asking, answering);
    let told = told.unwrap();
    assert_eq!((told.stories.len(), &*told.stories[0].told_by), (1, "s/a@10.0.0.1"));
    let silence = Silence {
        asked: 3,
        silent: vec!["s/b@10.0.0.2".to_owned()],
        unattached: vec!["s/c@10.0.0.3".to_owned()],
        left_out: 0,
    };
    assert_eq!(told.silence, silence);
}

#[tokio::test]
async fn a_tap_shows_what_is_told_and_is_called_off() {
    let plane = plane().await;
    let nobody = plane.observatory.tap(&Filter::default(), 10, LONG).await.unwrap_err();
    assert!(nobody.to_string().contains("none is attached"), "{nobody}");
    let proxy = Proxy::connect(plane.channel.clone(), "s/a", "10.0.0.1").await;
    let (answers, mut questions) = proxy.attach().await.unwrap();
    let filter = Filter { path: Some("/x".to_owned()), ..Filter::default() };
    let mut lines = plane.observatory.tap(&filter, 10, LONG).await.unwrap();
    let question = next(&mut questions).await;
    let Some(Ask::Tap(tap)) = question.ask else { panic!("not asked to tap") };
    assert_eq!((serde_json::from_str::<Filter>(&tap.filter).unwrap(), tap.limit), (filter.clone(), 10));
    let json = serde_json::to_vec(&story("outbound", "t", &[])).unwrap();
    let told = Answer { id: question.id, json, left_out: 3, ..Answer::default() };
    answers.send(told).await.unwrap();
    for is_note in [true, false] {
        let line = timeout(LONG, lines.recv()).await.unwrap().unwrap();
        assert_eq!(matches!(serde_json::from_str(&line).unwrap(), Line::Note { .. }), is_note, "{line}");
    }
    drop(lines);
    let cancelled = next(&mut questions).await;
    assert_eq!((cancelled.id, matches!(cancelled.ask, Some(Ask::Cancel(_)))), (question.id, true));

    let mut taps = Vec::new();
    for _ in 0..MAX_TAPS {
        taps.push(plane.observatory.tap(&filter, 10, LONG).await.unwrap());
    }
    let refused = plane.observatory.tap(&filter, 10, LONG).await.unwrap_err();
    assert!(refused.to_string().contains("taps are open"), "{refused}");
}

#[tokio::test]
async fn a_tap_also_asks_who_comes_later_and_ends_at_its_limit() {
    let plane = plane().await;
    let first = Proxy::connect(plane.channel.clone(), "s/a", "10.0.0.1").await;
    let _first = first.attach().await.unwrap();
    let mut lines = plane.observatory.tap(&Filter::default(), 1, LONG).await.unwrap();
    let later = Proxy::connect(connect(plane.address).await, "s/b", "10.0.0.2").await;
    let (answers, mut questions) = later.attach().await.unwrap();
    let question = next(&mut questions).await;
    let json = serde_json::to_vec(&story("outbound", "t", &[])).unwrap();
    answers.send(Answer { id: question.id, json, ..Answer::default() }).await.unwrap();
    let line = timeout(LONG, lines.recv()).await.unwrap().unwrap();
    assert!(line.contains("s/b@10.0.0.2"), "{line}");
    assert_eq!(timeout(LONG, lines.recv()).await.unwrap(), None);
}
