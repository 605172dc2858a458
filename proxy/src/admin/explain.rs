//! What is remembered of requests, and what goes by: `/explain`, `/explain/{id}` and `/tap`.
//!
//! The pages say nothing that the access log would not. A tap ends by itself, after so many requests or so much time.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::Full;
use pillion_policy::matching::query_value;
use pillion_xds::story::{Filter, Story};
use tokio::{
    sync::mpsc,
    time::{Sleep, sleep},
};

use super::{Page, json, text};
use crate::telemetry::Journal;

/// Time of which `/explain` tells the causes of failures.
const RECENT: Duration = Duration::from_secs(5 * 60);
/// Stories that `/explain` tells.
const NEWEST: usize = 20;
/// Requests a tap shows where its query does not say how many, and the most it may say.
const LIMIT: usize = 100;
const MOST: usize = 10_000;
/// How long a tap lasts where its query does not say, and the longest it may say.
const LASTS: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(600);

/// What a page holds: all of it, or what is still to come.
#[derive(Debug)]
pub(super) enum PageBody {
    Whole(Full<Bytes>),
    Tap(Tap),
}

/// Stories as they come, one JSON object per line.
#[derive(Debug)]
pub(super) struct Tap {
    stories: mpsc::Receiver<Arc<Story>>,
    left: usize,
    until: Pin<Box<Sleep>>,
}

/// The causes of recent failures, and the newest stories.
pub(super) fn overview(journal: &Journal) -> Page {
    let newest = journal.newest(NEWEST);
    let newest: Vec<&Story> = newest.iter().map(|story| &**story).collect();
    json(&serde_json::json!({
        "causes": journal.causes(RECENT),
        "within_seconds": RECENT.as_secs(),
        "newest": newest,
    }))
}

/// The stories of one request.
pub(super) fn request(journal: &Journal, id: &str) -> Page {
    let told = journal.explain(id);
    if told.is_empty() {
        let kept = "kept are requests that failed or were slow (--explain-slow), and one of a hundred others, until newer \
                    ones take their place";
        return text(StatusCode::NOT_FOUND, format!("nothing is known of request {id} here; {kept}\n"));
    }
    json(&serde_json::json!(told))
}

/// Matching requests from now on.
pub(super) fn tap(journal: &Journal, query: Option<&str>) -> Page {
    let asked = match Asked::read(query.unwrap_or_default()) {
        Ok(asked) => asked,
        Err(mistake) => return text(StatusCode::BAD_REQUEST, format!("{mistake}\n")),
    };
    let stories = match journal.tap(asked.filter) {
        Ok(stories) => stories,
        Err(refused) => return text(StatusCode::TOO_MANY_REQUESTS, format!("{refused}\n")),
    };
    let tap = Tap { stories, left: asked.limit, until: Box::pin(sleep(asked.lasts)) };
    let mut page = Page::new(PageBody::Tap(tap));
    page.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    page
}

/// What a tap is asked for.
#[derive(Debug, PartialEq)]
struct Asked {
    filter: Filter,
    limit: usize,
    lasts: Duration,
}

impl Asked {
    fn read(query: &str) -> Result<Self, String> {
        const KNOWN: [&str; 8] = ["to", "from", "status", "flag", "path", "method", "limit", "for"];
        let names =
            query.split('&').filter_map(|pair| pair.split('=').next()).filter(|name| !name.is_empty());
        if let Some(unknown) = names.into_iter().find(|name| !KNOWN.contains(name)) {
            return Err(format!("{unknown:?} is not understood; there are {}", KNOWN.join(", ")));
        }
        let value = |name| query_value(query, name).map(std::borrow::Cow::into_owned);
        let filter = Filter {
            to: value("to"),
            from: value("from"),
            status: value("status"),
            flag: value("flag"),
            path: value("path"),
            method: value("method"),
        };
        let number = |name, default: u64, most: u64| match value(name) {
            None => Ok(default),
            Some(text) => text
                .strip_suffix('s')
                .filter(|_| name == "for")
                .unwrap_or(&text)
                .parse()
                .ok()
                .filter(|number| (1..=most).contains(number))
                .ok_or(format!("{name}={text} is no number between 1 and {most}")),
        };
        let limit = number("limit", LIMIT as u64, MOST as u64)?;
        let seconds = number("for", LASTS.as_secs(), LONGEST.as_secs())?;
        filter.mistake().map_or(Ok(()), Err)?;
        Ok(Self {
            filter,
            limit: usize::try_from(limit).unwrap_or(MOST),
            lasts: Duration::from_secs(seconds),
        })
    }
}

impl From<Bytes> for PageBody {
    fn from(whole: Bytes) -> Self {
        Self::Whole(Full::new(whole))
    }
}

impl Body for PageBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(cx),
            Self::Tap(tap) => tap.poll_line(cx).map(|line| line.map(|line| Ok(Frame::data(line)))),
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Tap(_) => http_body::SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Tap(_) => false,
        }
    }
}

impl Tap {
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.left == 0 || self.until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let Some(story) = ready!(self.stories.poll_recv(cx)) else { return Poll::Ready(None) };
        self.left -= 1;
        let Ok(mut line) = serde_json::to_vec(&*story) else { return Poll::Ready(None) };
        line.push(b'\n');
        Poll::Ready(Some(line.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_is_asked_for_by_its_query() {
        let asked = Asked::read("to=order&status=5xx&path=%2Forders&limit=7&for=30s").unwrap();
        let filter = Filter {
            to: Some("order".to_owned()),
            status: Some("5xx".to_owned()),
            path: Some("/orders".to_owned()),
            ..Filter::default()
        };
        assert_eq!(asked, Asked { filter, limit: 7, lasts: Duration::from_secs(30) });
        let asked = Asked::read("").unwrap();
        assert_eq!(asked, Asked { filter: Filter::default(), limit: LIMIT, lasts: LASTS });
        for (query, told) in [
            ("too=order", "\"too\" is not understood"),
            ("status=6xx", "\"6xx\" is no status"),
            ("limit=0", "limit=0 is no number between 1 and 10000"),
            ("limit=5s", "limit=5s is no number"),
            ("for=1h", "for=1h is no number"),
            ("for=601", "between 1 and 600"),
        ] {
            let mistake = Asked::read(query).unwrap_err();
            assert!(mistake.contains(told), "{query}: {mistake}");
        }
    }
}
