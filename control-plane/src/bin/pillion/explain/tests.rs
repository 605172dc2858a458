use super::*;

const STORY: &str = r#"{"request_id":"8a2c","stories":[
 {"told_by":"default/web@127.0.1.1","depth":0,"request_id":"8a2c","trace_id":"4bf92f35","start":"2026-11-21T12:00:01.123Z",
  "direction":"outbound","method":"GET","authority":"order","path":"/orders/7","status":503,"flag":"URX",
  "cause":"127.0.1.5:8080 answered 503","route":"VirtualService default/order http[0]","cluster":"order.default:80",
  "policy_revision":7,"not_retried":"attempts used up","duration_ms":31.24,
  "attempts":[
   {"at_ms":0.1,"duration_ms":0.4,"endpoint":"127.0.1.4:8080","flag":"UF","cause":"refused","verdict":"sent again","backoff_ms":25},
   {"at_ms":25.6,"duration_ms":5.5,"endpoint":"127.0.1.5:8080","status":503,"flag":"-","verdict":"passed on",
    "queue_ms":1.0,"connect_ms":0.3,"tls_ms":2.0}],
  "events":[{"at_ms":0.05,"what":"held","detail":"2 ms"}]},
 {"told_by":"default/order@127.0.1.5","depth":1,"request_id":"8a2c","start":"2026-11-21T12:00:01.150Z",
  "direction":"inbound","method":"GET","authority":"order","path":"/orders/7","status":503,"flag":"-",
  "source_principal":"spiffe://cluster.local/ns/default/sa/web","duration_ms":4.0,
  "attempts":[{"at_ms":0.1,"duration_ms":3.0,"endpoint":"127.0.0.1:9000","status":503,"flag":"-","verdict":"passed on"}]}],
 "silence":{"asked":3,"silent":["default/user@127.0.1.9"],"unattached":[]}}"#;

#[test]
fn a_story_is_told_hop_by_hop() {
    let explanation: Explanation = serde_json::from_str(STORY).unwrap();
    let told = "\
request 8a2c of trace 4bf92f35, 2026-11-21T12:00:01.123Z

out of default/web@127.0.1.1: GET order/orders/7 -> 503 URX in 31 ms
  rule      VirtualService default/order http[0]
  cluster   order.default:80
  policy    revision 7
  event     after 0.1 ms held: 2 ms
  try 1     127.0.1.4:8080 after 0.1 ms -> no response UF in 0.4 ms (refused); sent again after 25 ms
  try 2     127.0.1.5:8080 after 26 ms, 1.0 ms in line, 0.3 ms connecting, 2.0 ms for TLS -> 503 in 5.5 ms; passed on
  no retry  attempts used up
  cause     127.0.1.5:8080 answered 503
  URX       {meaning}
  advice    {advice}

  in to default/order@127.0.1.5: GET order/orders/7 -> 503 in 4.0 ms
    caller    spiffe://cluster.local/ns/default/sa/web
    try 1     127.0.0.1:9000 after 0.1 ms -> 503 in 3.0 ms; passed on

(not heard in time: default/user@127.0.1.9)
";
    let told = told.replace("{meaning}", Flag::Urx.meaning()).replace("{advice}", Flag::Urx.advice());
    assert_eq!(in_words(&explanation), told);
}

#[test]
fn what_nobody_remembers_is_said_with_what_would_be() {
    let silence = Silence { asked: 2, unattached: vec!["a/b".to_owned()], ..Silence::default() };
    let explanation = Explanation { request_id: "x".to_owned(), silence, ..Explanation::default() };
    assert!(heard(&explanation.silence).is_ok());
    let told = forgotten(&explanation);
    assert!(told.starts_with("no proxy remembers request x: remembered are"), "{told}");
    assert!(told.ends_with("; cannot be asked: a/b"), "{told}");
}

#[test]
fn without_anybody_to_ask_there_is_an_error() {
    let told = heard(&Silence::default()).unwrap_err().to_string();
    assert!(told.contains("no proxy is connected"), "{told}");
    let silence = Silence { asked: 1, silent: vec!["a/b".to_owned()], ..Silence::default() };
    let told = heard(&silence).unwrap_err().to_string();
    assert_eq!(told, "none of 1 connected proxies has answered; not heard in time: a/b");
}

#[test]
fn causes_are_a_table() {
    let text = r#"{"within_seconds":300,"total":40,"causes":[
        {"flag":"UF","cause":"cannot connect","from":"default/web","to":"order.default:80","count":30,"request_id":"8a2c"},
        {"flag":"NR","cause":"no rule","from":"default/web","to":"","count":10,"request_id":"77"}],
        "silence":{"asked":1}}"#;
    let told = "\
40 requests answered by proxies in the last 5 min

FLAG  COUNT   SHARE  FROM         TO                EXAMPLE  CAUSE
UF       30  75.0 %  default/web  order.default:80  8a2c     cannot connect
NR       10  25.0 %  default/web  -                 77       no rule
";
    let words = |flag: Flag| format!("\n{}: {} {}\n", flag.as_str(), flag.meaning(), flag.advice());
    let told = format!("{told}{}{}", words(Flag::Nr), words(Flag::Uf));
    assert_eq!(lately(&serde_json::from_str(text).unwrap()), told);
    let nothing = Causes { within_seconds: 90, ..Causes::default() };
    assert_eq!(lately(&nothing), "no proxy has answered a request itself in the last 90 s\n");
}
