use super::*;

const ENVOY: Peer = Peer::plain(Kind::Envoy, 1);
const PILLION: Peer = Peer::plain(Kind::Pillion, 1);

fn samples(cpu: &[f64]) -> Samples {
    Samples::from([("full_cpu_us", cpu.to_vec())])
}

#[test]
fn medians_do_not_follow_outliers() {
    assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[1.0, 2.0, 4.0, 100.0]), Some(3.0));
    assert_eq!(median(&[]), None);
}

#[test]
fn ratios_are_to_envoy_of_the_same_scenario_and_workers() {
    let two = Peer { n_workers: 2, ..PILLION };
    let results = vec![
        (Scenario::Http1, PILLION, samples(&[15.0])),
        (Scenario::Http1, two, samples(&[15.0])),
        (Scenario::Http1, ENVOY, samples(&[40.0, 30.0, 20.0])),
    ];
    let document = document(&results, 3, 4);
    assert_eq!(document["results"][0]["ratio_to_envoy"]["full_cpu_us"], 0.5);
    assert_eq!(document["results"][1]["ratio_to_envoy"], json!({}), "no envoy with two workers ran");
    let lines = table(&results, Scenario::Http1);
    assert!(lines.iter().any(|line| line.starts_with("pillion       |    15.0   0.50")), "{lines:#?}");
    assert!(table(&results, Scenario::Http2).is_empty());
}
