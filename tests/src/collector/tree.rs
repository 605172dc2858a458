//! A trace as a tree, with durations.

use std::fmt::Write as _;

use super::Span;

impl Span {
    /// The spans of a trace as a tree: children under their parents, siblings in order of their begin.
    ///
    /// Spans whose parent is not among them stand at the left.
    pub fn tree(spans: &[Self]) -> String {
        let mut spans: Vec<&Self> = spans.iter().collect();
        spans.sort_by_key(|span| span.start);
        let begin = spans.first().map_or(0, |span| span.start);
        let is_root = |span: &Self| !spans.iter().any(|other| other.span_id == span.parent);
        let (roots, mut others): (Vec<_>, Vec<_>) = spans.iter().copied().partition(|span| is_root(span));
        let mut text = String::new();
        for root in roots {
            draw(&mut text, root, &mut others, begin, 0);
        }
        // Whatever hangs on itself.
        while let Some(span) = others.pop() {
            draw(&mut text, span, &mut others, begin, 0);
        }
        text
    }
}

/// Draws a span, and of the others those under it, which are used up.
fn draw(text: &mut String, span: &Span, others: &mut Vec<&Span>, begin: u64, depth: usize) {
    // Spans of one process have one clock; between processes of this machine it is the same.
    let after = std::time::Duration::from_nanos(span.start.saturating_sub(begin));
    let what = format!("{}{} ", "  ".repeat(depth), span.service);
    let mark = if span.is_error { "  ✗" } else { "" };
    let told = ["http.response.status_code", "server.address", "pillion.flag", "pillion.verdict"];
    let told: Vec<&str> =
        told.map(|name| span.attribute(name)).into_iter().filter(|it| !it.is_empty()).collect();
    // Writing to a string cannot fail.
    let _infallible = writeln!(
        text,
        "{what:<34} {:<8} {:<34} +{:>8.2} ms {:>8.2} ms  {}{mark}",
        span.kind,
        span.name,
        after.as_secs_f64() * 1e3,
        span.duration.as_secs_f64() * 1e3,
        told.join(" "),
    );
    let children: Vec<&Span> = others.extract_if(.., |other| other.parent == span.span_id).collect();
    for child in children {
        draw(text, child, others, begin, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_stand_under_their_parents() {
        let span = |id: &str, parent: &str, start| Span {
            service: "shop".to_owned(),
            name: format!("call {id}"),
            span_id: id.to_owned(),
            parent: parent.to_owned(),
            start,
            ..Span::default()
        };
        let text =
            Span::tree(&[span("c", "a", 3), span("a", "elsewhere", 1), span("d", "b", 4), span("b", "a", 2)]);
        let seen: Vec<(usize, &str)> = text
            .lines()
            .map(|line| {
                (
                    line.len() - line.trim_start().len(),
                    line.split("call ").nth(1).map_or("", |rest| &rest[..1]),
                )
            })
            .collect();
        assert_eq!(seen, [(0, "a"), (2, "b"), (4, "d"), (2, "c")]);
    }
}
