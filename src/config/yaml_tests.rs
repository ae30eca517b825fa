//! Texts, and what they are read as.

use super::*;

fn plain(text: &str, line: usize) -> Node {
    Node { value: Value::Scalar { text: text.into(), plain: true }, line }
}

fn error(text: &str) -> (usize, usize, String) {
    let error = parse(text).unwrap_err();
    (error.line, error.column, error.message)
}

#[test]
fn nodes_know_their_lines() {
    let root = parse("# comment\na:\n  b: 1\n  c: [x,\n    y]\n").unwrap();
    let Value::Map(entries) = &root.value else { panic!("{root:?}") };
    assert_eq!(entries[0].0, Key { text: "a".into(), line: 2 });
    let Value::Map(entries) = &entries[0].1.value else { panic!("{root:?}") };
    assert_eq!(entries[0], (Key { text: "b".into(), line: 3 }, plain("1", 3)));
    assert_eq!(entries[1].1.value, Value::List(vec![plain("x", 4), plain("y", 5)]));
    assert_eq!(root.line_of(&["a", "c"]), Some(4));
    assert_eq!(root.line_of(&["a", "missing", "c"]), Some(2));
    assert_eq!(root.line_of(&["missing"]), None);
}

#[test]
fn json_is_yaml() {
    let json = "{\n\t\"a\": {\"b\\u00e9\": [1, true, null, \"x\\/y\"]}\n}";
    let yaml = "a: {bé: [1, true, null, \"x/y\"]}";
    let strip = |text| {
        let Value::Map(mut entries) = parse(text).unwrap().value else { panic!("no map") };
        let Value::Map(mut inner) = entries.remove(0).1.value else { panic!("no map") };
        let (key, list) = inner.remove(0);
        let Value::List(items) = list.value else { panic!("no list") };
        (key.text, items.into_iter().map(|node| node.value).collect::<Vec<_>>())
    };
    assert_eq!(strip(json), strip(yaml));
}

#[test]
fn untyped_values_are_those_of_the_core_schema() {
    let text = "[1, -2, 0x10, 0o17, 0644, 1.5, 1e3, true, False, ~, '1', yes, 1.2.3, 08, 0.5, 1e400, 99999999999999999999, 2026-11-25]";
    let expected = serde_json::json!([
        1,
        -2,
        16,
        15,
        420,
        1.5,
        1000.0,
        true,
        false,
        null,
        "1",
        "yes",
        "1.2.3",
        "08",
        0.5,
        "1e400",
        1e20,
        "2026-11-25"
    ]);
    assert_eq!(parse(text).unwrap().to_json(), expected);
    assert_eq!(parse("{a: {1: [b]}}").unwrap().to_json(), serde_json::json!({"a": {"1": ["b"]}}));
}

#[test]
fn quotes_tell_a_text_from_a_null() {
    let root = parse("[~, null, , 'null', \"\"]").or_else(|_| parse("[~, null, 'null', \"\"]")).unwrap();
    let Value::List(items) = root.value else { panic!("no list") };
    let nulls = items.iter().filter(|node| node.value == Value::Null).count();
    assert_eq!((items.len(), nulls), (4, 2));
    assert_eq!(parse("").unwrap().value, Value::Null);
    assert_eq!(parse("\u{feff}# only a comment\n").unwrap().value, Value::Null);
}

#[test]
fn anchors_are_copied_with_the_line_of_their_alias() {
    let root = parse("a: &x [1]\nb: *x\n").unwrap();
    let Value::Map(entries) = root.value else { panic!("no map") };
    assert_eq!(entries[1].1, Node { value: Value::List(vec![plain("1", 1)]), line: 2 });
}

#[test]
fn merge_keys_put_in_what_the_mapping_has_not_itself() {
    let json = |text: &str| parse(text).unwrap().to_json();
    let base = "- &a {x: 1, y: 2}\n- &b {y: 3, z: 4}\n- ";
    for (mapping, expected) in [
        ("{<<: *a}", serde_json::json!({"x": 1, "y": 2})),
        ("{x: 5, <<: *a}", serde_json::json!({"x": 5, "y": 2})),
        ("{<<: *a, x: 5}", serde_json::json!({"x": 5, "y": 2})),
        ("{<<: [*b, *a]}", serde_json::json!({"x": 1, "y": 3, "z": 4})),
        ("{<<: *b, <<: *a}", serde_json::json!({"x": 1, "y": 3, "z": 4})),
        ("{<<: {x: 6}, q: {<<: *a}}", serde_json::json!({"x": 6, "q": {"x": 1, "y": 2}})),
        ("{<<: []}", serde_json::json!({})),
        ("{'<<': 7}", serde_json::json!({"<<": 7})),
        ("[<<]", serde_json::json!(["<<"])),
    ] {
        assert_eq!(json(&format!("{base}{mapping}"))[2], expected, "{mapping}");
    }
    for bad in ["{<<: 1}", "{<<: ~}", "{<<: [*a, 1]}", "{<<: [[*a]]}"] {
        assert!(error(&format!("{base}{bad}")).2.starts_with("<< takes a mapping"), "{bad}");
    }
    // A key that is there twice stays so, for its reader to tell.
    let Value::Map(entries) = parse("{<<: {x: 1, x: 2}}").unwrap().value else { panic!("no map") };
    assert_eq!(entries.len(), 2);
    // What is merged keeps its lines.
    let root = parse("a: &a\n  x: 1\nb:\n  <<: *a\n").unwrap();
    assert_eq!(root.line_of(&["b", "x"]), Some(2));
    let mut laughs = String::from("a0: &a0 {k0: lol}\n");
    for n in 1..60 {
        laughs += &format!("a{n}: &a{n} {{l: *a{0}, r: *a{0}, <<: *a{0}}}\n", n - 1);
    }
    assert!(parse(&laughs).is_err());
}

#[test]
fn syntax_errors_have_a_line_and_a_column() {
    assert_eq!(error("a: b\nc: [1, 2\n").0, 3);
    assert_eq!(error("a: b\n---\nc: d\n"), (2, 1, "a second document; a configuration is one".into()));
    assert_eq!(error("a: !!str b").0, 1);
    assert_eq!(error("a: b\n? [c]\n: d").0, 2);
    assert_eq!(error("a: *b").0, 1);
    assert_eq!(error("a: &b [*b]").0, 1);
}

#[test]
fn depth_and_size_are_bounded() {
    assert!(parse(&"[".repeat(1000)).is_err());
    assert!(parse(&"- ".repeat(100_000)).is_err());
    assert!(parse(&"{a: ".repeat(1000)).is_err());
    let mut laughs = String::from("a0: &a0 [lol, lol]\n");
    for n in 1..30 {
        laughs += &format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1);
    }
    assert!(error(&laughs).2.starts_with("too large"));
    let mut tower = String::from("a0: &a0 []\n");
    for n in 1..100 {
        tower += &format!("a{n}: &a{n} [*a{}]\n", n - 1);
    }
    assert_eq!(error(&tower).2, "nested deeper than 32 levels");
    let long = format!("a: &a {}\nb: [{}]", "x".repeat(100_000), "*a, ".repeat(1000));
    assert!(error(&long).2.starts_with("too large"));
}
