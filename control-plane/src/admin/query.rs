//! What is asked for behind the question mark of an address.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use percent_encoding::percent_decode_str;
use pillion_xds::story::Filter;

use crate::config::lifetime;

/// Longest time for which traffic is watched.
const MAX_TAP: Duration = Duration::from_secs(600);

/// Most requests that are told to one who watches.
const MAX_STORIES: u32 = 100_000;

/// Since when causes are told where nobody says.
const LATELY: Duration = Duration::from_secs(300);

/// Names and values, each name once.
#[derive(Debug)]
struct Query(BTreeMap<String, String>);

/// What somebody wants to watch.
#[derive(Debug, PartialEq)]
pub(super) struct TapQuery {
    /// Which requests.
    pub(super) filter: Filter,
    /// How many at most.
    pub(super) limit: u32,
    /// For how long at most.
    pub(super) time: Duration,
}

impl Query {
    /// Takes it apart. An error says what is wrong with it.
    fn parse(query: &str) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if values.insert(name.clone(), value).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        Ok(Self(values))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).filter(|value| !value.is_empty())
    }

    fn time(&mut self, name: &str) -> Result<Option<Duration>, String> {
        let time = self.take(name).map(|value| lifetime(&value)).transpose();
        time.map_err(|reason| format!("{name}: {reason}"))
    }

    /// What nobody has asked about is a mistake.
    fn end(self, known: &str) -> Result<(), String> {
        match self.0.into_keys().next() {
            Some(name) => Err(format!("there is no {name:?} here; there are: {known}")),
            None => Ok(()),
        }
    }
}

fn decode(text: &str) -> Result<String, String> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded.map(Into::into).map_err(|_| format!("{text:?} is not UTF-8"))
}

/// Within which time causes are asked for.
pub(super) fn within(query: &str) -> Result<Duration, String> {
    let mut query = Query::parse(query)?;
    let within = query.time("within")?.unwrap_or(LATELY);
    query.end("within").map(|()| within)
}

/// What is to be watched.
pub(super) fn tap(query: &str) -> Result<TapQuery, String> {
    let mut query = Query::parse(query)?;
    let filter = Filter {
        to: query.take("to"),
        from: query.take("from"),
        status: query.take("status"),
        flag: query.take("flag"),
        path: query.take("path"),
        method: query.take("method"),
    };
    if let Some(mistake) = filter.mistake() {
        return Err(mistake);
    }
    let limit = match query.take("limit") {
        Some(limit) => limit.parse().map_err(|_| format!("limit: {limit:?} is not a number"))?,
        None => MAX_STORIES,
    };
    let time = query.time("for")?.unwrap_or(MAX_TAP).min(MAX_TAP);
    query.end("to, from, status, flag, path, method, limit, for")?;
    Ok(TapQuery { filter, limit: limit.clamp(1, MAX_STORIES), time })
}
