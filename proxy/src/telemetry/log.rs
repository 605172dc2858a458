//! The log of the proxy itself: lines on standard error, with a filter that can be changed while it runs.

use std::{io::IsTerminal, panic};

use tracing_subscriber::{
    EnvFilter, Registry, filter::LevelFilter, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// Changes the filter of the log.
#[derive(Debug, Clone)]
pub struct LogControl(reload::Handle<EnvFilter, Registry>);

/// Why the log cannot be as wished.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is none.
    #[error(
        "{filter:?} is no log filter: {reason}; give a level (error, warn, info, debug, trace) or target=level,…"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody else has set up the log of this process.
    #[error("the log of this process is set up already")]
    Taken,
}

/// Starts the log, and logs panics.
pub fn init(filter: &str) -> Result<LogControl, LogError> {
    let (filter, control) = reload::Layer::new(parse(filter)?);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    Registry::default().with(filter).with(lines).try_init().map_err(|_taken| LogError::Taken)?;
    panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("without a message");
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(at, "panic: {message}");
    }));
    Ok(LogControl(control))
}

impl LogControl {
    /// The filter in force.
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Puts another filter in force.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let filter = parse(filter)?;
        self.0.reload(filter).map_err(|_gone| LogError::Taken)
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let invalid = |reason: String| LogError::Filter { filter: filter.to_owned(), reason };
    // The parser takes a single word that is no level for the name of a module, so a misspelt level would say nothing.
    let word = filter.split(',').map(str::trim).find(|part| {
        part.is_empty() || !part.contains(['=', ':', '[']) && part.parse::<LevelFilter>().is_err()
    });
    if let Some(word) = word {
        return Err(invalid(format!("{word:?} is no level")));
    }
    EnvFilter::try_new(filter).map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        for good in ["info", "debug,hyper=warn", "pillion_proxy::tcp=trace", "off"] {
            assert_eq!(parse(good).unwrap().to_string().split(',').count(), good.split(',').count());
        }
        for bad in ["debgu", "", "info,", "hyper=loud"] {
            assert!(parse(bad).unwrap_err().to_string().contains("is no log filter"), "{bad}");
        }
    }

    #[test]
    fn the_filter_can_be_changed_while_it_runs() {
        let (filter, handle) = reload::Layer::<_, Registry>::new(parse("info").unwrap());
        let control = LogControl(handle);
        let subscriber = Registry::default().with(filter);
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
            control.set("debug").unwrap();
            assert_eq!(control.get(), "debug");
            assert!(tracing::enabled!(tracing::Level::DEBUG));
            assert!(control.set("debgu").is_err());
            assert_eq!(control.get(), "debug");
        });
    }
}
