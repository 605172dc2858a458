use std::sync::Mutex;

use pillion_xds::observe::{self as wire, Answer, Question, question::Ask};
use tokio::{
    task::unconstrained,
    time::{advance, timeout},
};

use super::{desk::*, pace::Pace, *};

/// A proxy that knows what it is given.
#[derive(Debug, Default)]
struct Known {
    stories: Vec<Story>,
    watchers: Mutex<Vec<mpsc::Sender<Arc<Story>>>>,
}

impl Observed for Known {
    fn explain(&self, request_id: &str) -> Vec<Story> {
        self.stories.iter().filter(|story| story.request_id == request_id).cloned().collect()
    }

    fn causes(&self, within: Duration) -> Vec<Cause> {
        vec![Cause { count: within.as_secs(), ..Cause::default() }]
    }

    fn tap(&self, filter: Filter) -> Result<mpsc::Receiver<Arc<Story>>, String> {
        if filter.to.as_deref() == Some("nobody") {
            return Err("nobody can be watched".to_owned());
        }
        let (sender, receiver) = mpsc::channel(1024);
        self.watchers.lock().unwrap().push(sender);
        Ok(receiver)
    }

    fn figures(&self) -> Figures {
        Figures { traffic: vec![Default::default()], ..Figures::default() }
    }
}

impl Known {
    /// Tells all who watch.
    fn happens(&self, request_id: &str) {
        let story = Arc::new(Story { request_id: request_id.to_owned(), ..Story::default() });
        for watcher in &*self.watchers.lock().unwrap() {
            drop(watcher.try_send(Arc::clone(&story)));
        }
    }
}

fn question(id: u64, ask: Ask) -> Question {
    Question { id, ask: Some(ask) }
}

fn tap(id: u64, filter: &str, limit: u32, for_seconds: u32) -> Question {
    question(id, Ask::Tap(wire::Tap { filter: filter.to_owned(), limit, for_seconds }))
}

fn stories(answer: &Answer) -> Vec<Story> {
    serde_json::from_slice(&answer.json).unwrap()
}

/// Everything there is to tell without waiting.
async fn told(desk: &mut Desk) -> Vec<Answer> {
    let mut told = Vec::new();
    // Without the turns that tokio has long loops take: they would look like an end.
    unconstrained(async {
        while let Ok(answer) = timeout(Duration::ZERO, desk.next()).await {
            told.push(answer);
        }
    })
    .await;
    told
}

#[tokio::test(start_paused = true)]
async fn questions_about_what_was_are_answered_at_once() {
    let story = |id: &str| Story { request_id: id.to_owned(), ..Story::default() };
    let known = Known { stories: vec![story("a"), story("b"), story("a")], ..Known::default() };
    let mut desk = Desk::new(Arc::new(known));
    let now = Instant::now();
    let explain = |id: &str| Ask::Explain(wire::Explain { request_id: id.to_owned() });
    let answer = desk.ask(question(1, explain("a")), now).unwrap();
    assert_eq!((answer.id, answer.last, answer.left_out, stories(&answer).len()), (1, true, 0, 2));
    let answer = desk.ask(question(2, explain("c")), now).unwrap();
    assert!(stories(&answer).is_empty() && answer.last);
    let answer = desk.ask(question(3, Ask::Causes(wire::Causes { within_seconds: 300 })), now).unwrap();
    let causes: Vec<Cause> = serde_json::from_slice(&answer.json).unwrap();
    assert_eq!(causes[0].count, 300);
    let answer = desk.ask(question(4, Ask::Figures(wire::Figures {})), now).unwrap();
    let figures: Figures = serde_json::from_slice(&answer.json).unwrap();
    assert_eq!(figures.traffic.len(), 1);
    let answer = desk.ask(Question { id: 5, ask: None }, now).unwrap();
    assert!(answer.last && !answer.refusal.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_a_limit_and_says_what_it_leaves_out() {
    let story = Story { request_id: "a".to_owned(), path: "x".repeat(100 << 10), ..Story::default() };
    let known = Known { stories: vec![story; 5], ..Known::default() };
    let mut desk = Desk::new(Arc::new(known));
    let ask = Ask::Explain(wire::Explain { request_id: "a".to_owned() });
    let answer = desk.ask(question(1, ask), Instant::now()).unwrap();
    assert!(answer.json.len() <= MAX_ANSWER + 2);
    assert_eq!((stories(&answer).len(), answer.left_out), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn who_watches_is_told_until_limit_time_or_cancellation() {
    let known = Arc::new(Known::default());
    let mut desk = Desk::new(Arc::clone(&known) as _);
    for (id, limit) in [(1, 2), (2, 1000), (3, 1000)] {
        assert!(desk.ask(tap(id, "{}", limit, 30), Instant::now()).is_none());
    }
    known.happens("a");
    known.happens("b");
    known.happens("c");
    assert!(desk.ask(question(3, Ask::Cancel(wire::Cancel {})), Instant::now()).is_none());
    let answers = told(&mut desk).await;
    let of = |id| answers.iter().filter(move |answer| answer.id == id);
    assert_eq!(of(1).map(|answer| answer.last).collect::<Vec<_>>(), [false, true]);
    assert_eq!(of(2).count(), 3);
    assert_eq!(of(3).count(), 0);
    let story: Story = serde_json::from_slice(&answers[0].json).unwrap();
    assert_eq!(story.request_id, "a");
    advance(Duration::from_secs(30)).await;
    let answers = told(&mut desk).await;
    assert_eq!(answers, [Answer { id: 2, last: true, ..Answer::default() }]);
    known.happens("d");
    assert!(told(&mut desk).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_a_flood_so_much_is_told_and_the_rest_counted() {
    let known = Arc::new(Known::default());
    let mut desk = Desk::new(Arc::clone(&known) as _);
    assert!(desk.ask(tap(1, "{}", 100_000, 60), Instant::now()).is_none());
    for _ in 0..PER_SECOND + 50 {
        known.happens("a");
    }
    assert_eq!(told(&mut desk).await.len(), PER_SECOND as usize);
    advance(Duration::from_secs(1)).await;
    known.happens("b");
    let answers = told(&mut desk).await;
    assert_eq!(answers.iter().map(|answer| answer.left_out).collect::<Vec<_>>(), [50]);
}

#[tokio::test(start_paused = true)]
async fn who_may_not_watch_is_told_why() {
    let known = Arc::new(Known::default());
    let mut desk = Desk::new(Arc::clone(&known) as _);
    let now = Instant::now();
    for filter in ["", "7", r#"{"to":"nobody"}"#] {
        let answer = desk.ask(tap(1, filter, 1, 1), now).unwrap();
        assert!(answer.last && !answer.refusal.is_empty(), "{filter}");
    }
    for id in 0..MAX_TAPS as u64 {
        assert!(desk.ask(tap(id, "{}", 1, MAX_SECONDS * 2), now).is_none());
    }
    assert!(desk.ask(tap(99, "{}", 1, 1), now).unwrap().refusal.contains("watching"));
    // Nobody watches for longer than that, whatever they ask for.
    advance(Duration::from_secs(MAX_SECONDS.into())).await;
    assert_eq!(told(&mut desk).await.len(), MAX_TAPS);
}

#[test]
fn a_pace_is_for_each_second() {
    let start = Instant::now();
    let mut pace = Pace::new(2);
    let at = |millis| start + Duration::from_millis(millis);
    let admitted: Vec<bool> = [0, 10, 20, 999, 1000, 1001, 1002, 5000].map(|ms| pace.admit(at(ms))).to_vec();
    assert_eq!(admitted, [true, true, false, false, true, true, false, true]);
    assert_eq!((pace.left_out(), pace.left_out()), (3, 0));
}
