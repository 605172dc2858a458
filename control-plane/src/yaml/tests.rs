use proptest::prelude::*;

use super::*;

fn one(text: &str) -> Node {
    let mut documents = parse(text).unwrap();
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

#[test]
fn documents_keep_their_lines() {
    let documents = parse("# head\na: 1\n---\n\nb:\n  - c: x\n    d: 'y'\n---\n").unwrap();
    assert_eq!(documents.len(), 2);
    let item = match &documents[1].get("b").unwrap().value {
        Value::List(items) => items[0].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(item.entry("d").unwrap().line, 7);
    assert_eq!(item.get("d").unwrap().value, Value::Scalar { text: "y".into(), plain: false });
}

#[test]
fn anchors_and_merge_keys_are_resolved() {
    let node = one("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n");
    let used = node.get("use").unwrap();
    assert_eq!(used.get("x").unwrap().text(), Some("1"));
    assert_eq!(used.get("y").unwrap().text(), Some("3"));
}

#[test]
fn json_is_read() {
    assert_eq!(one("{\n\t\"a\": [1, \"2\"],\n \"b\": null}").get("a").unwrap().describe(), "a list");
}

#[test]
fn mistakes_name_their_line() {
    for (text, line, reason) in [
        ("a: 1\na: 2\n", 2, "twice"),
        ("a: 1\nb: [1\n", 3, ""),
        ("a: 1\n  b: 2\n", 2, ""),
        ("? [x]\n: 1\n", 1, "plain word"),
        ("a: *b\n", 1, ""),
        ("a: &a [*a]\n", 1, "anchor"),
        ("<<: 3\n", 1, "merges"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.reason.contains(reason), "{text}: {error}");
    }
}

#[test]
fn growth_by_aliases_and_depth_are_bounded() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x]\n");
    for level in 1..20 {
        let before = level - 1;
        let list = vec![format!("*a{before}"); 8].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    assert!(parse(&bomb).unwrap_err().reason.contains("expand"));
    let deep: String = (0..100).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    assert!(parse(&deep).unwrap_err().reason.contains("deeper"));
    assert!(parse(&"[".repeat(100_000)).is_err());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[ a-c:\\-\\[\\]{}&*<>|'\"\\n\\t#,?!%@`~0-9]{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }
}
