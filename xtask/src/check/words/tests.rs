use super::*;

fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

#[test]
fn each_word_is_found_with_its_line() {
    for (word, ending, _) in WORDS {
        let found = check(&[source(&format!("proxy/x{ending}"), &format!("fine\nsee {word} here\n"))]);
        assert_eq!(found.len(), 1, "{word}");
        assert!(found[0].starts_with(&format!("proxy/x{ending}:2:")), "{found:?}");
    }
}

#[test]
fn generated_files_and_other_endings_are_free() {
    let (allow, ..) = WORDS[6];
    assert_eq!(check(&[source("proxy/xds/src/generated/a.rs", allow)]), Problems::new());
    assert_eq!(check(&[source("STYLE.md", allow)]), Problems::new());
}
