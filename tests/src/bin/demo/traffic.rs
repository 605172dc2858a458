//! The users of the shop: bounded traffic through the API front, and the table of what they get.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use pillion_tests::{Client, Load, Report};

use crate::cast::API;

/// How often the table is brought up to date.
const TICK: Duration = Duration::from_millis(500);
/// How many ticks back the table looks.
const WINDOW: usize = 6;
/// Requests per second of premium users.
const PREMIUM_RATE: u32 = 5;
/// Most requests of one kind of user in flight at a time.
const IN_FLIGHT: usize = 64;

/// Ordinary and premium users at work.
#[derive(Debug)]
pub(crate) struct Traffic {
    everybody: Users,
    premium: Users,
}

/// One kind of user.
#[derive(Debug)]
struct Users {
    name: &'static str,
    load: Load,
    seen: RefCell<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The last ticks.
    recent: VecDeque<Report>,
    /// Since the last tick.
    fresh: Report,
    /// Since [`Traffic::mark`].
    marked: Report,
}

impl Traffic {
    /// Sends `rate` requests a second, and a few more as premium users.
    pub(crate) fn start(rate: u32) -> Self {
        let client = Client::http1(API.inbound());
        let everybody = {
            let client = client.clone();
            Load::start(rate, IN_FLIGHT, move || client.get("http://api/").send())
        };
        let premium = Load::start(PREMIUM_RATE, IN_FLIGHT, move || {
            client.get("http://api/").header("user-type", "premium").send()
        });
        Self { everybody: Users::new("everybody", everybody), premium: Users::new("premium", premium) }
    }

    /// Waits one tick and looks at what came.
    pub(crate) async fn tick(&self) {
        tokio::time::sleep(TICK).await;
        for users in [&self.everybody, &self.premium] {
            users.collect();
            let mut seen = users.seen.borrow_mut();
            let report = std::mem::take(&mut seen.fresh);
            seen.recent.push_back(report);
            if seen.recent.len() > WINDOW {
                seen.recent.pop_front();
            }
        }
    }

    /// Starts a new count for [`Traffic::since_mark`].
    pub(crate) fn mark(&self) {
        for users in [&self.everybody, &self.premium] {
            users.collect();
            users.seen.borrow_mut().marked = Report::default();
        }
    }

    /// What all users got since the last mark.
    pub(crate) fn since_mark(&self) -> Report {
        let mut all = Report::default();
        for users in [&self.everybody, &self.premium] {
            users.collect();
            all.merge(&users.seen.borrow().marked);
        }
        all
    }

    /// What premium users got since the last mark.
    pub(crate) fn premium_since_mark(&self) -> Report {
        self.premium.collect();
        self.premium.seen.borrow().marked.clone()
    }

    /// The table of the last seconds.
    pub(crate) fn table(&self) -> Vec<String> {
        let head = format!(
            "  {:<11}{:>7}{:>11}{:>9}{:>9}{:>11}{:>11}",
            "users", "req/s", "success", "p50 ms", "p99 ms", "order v1", "order v2"
        );
        let rows = [&self.everybody, &self.premium].map(Users::row);
        std::iter::once(head).chain(rows).collect()
    }
}

impl Users {
    fn new(name: &'static str, load: Load) -> Self {
        Self { name, load, seen: RefCell::default() }
    }

    fn collect(&self) {
        let report = self.load.take();
        let mut seen = self.seen.borrow_mut();
        seen.fresh.merge(&report);
        seen.marked.merge(&report);
    }

    fn row(&self) -> String {
        let seen = self.seen.borrow();
        let mut window = Report::default();
        for report in &seen.recent {
            window.merge(report);
        }
        let span = TICK.as_secs_f64() * f64::from(u32::try_from(seen.recent.len().max(1)).unwrap_or(1));
        #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
        let rate = window.total() as f64 / span;
        let success = pillion_tests::load::percent(window.successes, window.total());
        format!(
            "  {:<11}{rate:>7.0}{success:>9.2} %{:>9.1}{:>9.1}{:>9.1} %{:>9.1} %",
            self.name,
            window.percentile_ms(50.0),
            window.percentile_ms(99.0),
            window.version_percent("v1"),
            window.version_percent("v2"),
        )
    }
}
