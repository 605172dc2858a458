use super::*;

#[test]
fn a_ratio_is_the_median_of_those_of_each_turn() {
    // The machine gets slower from turn to turn, and one turn is disturbed.
    let others: Vec<f64> = (1..=100).map(f64::from).collect();
    let mut costs: Vec<f64> = others.iter().map(|other| other * 1.05).collect();
    costs[7] *= 10.0;
    let found = ratio(&costs, &others).unwrap();
    assert_eq!(found.to_string(), "1.050 x (1.050 to 1.050)");
}

#[test]
fn the_interval_holds_the_median_in_95_of_100_cases() {
    // Of 100 samples these are the 40th and the 61st, as in tables of the sign test.
    let costs: Vec<f64> = (1..=100).map(f64::from).collect();
    let found = ratio(&costs, &[1.0; 100]).unwrap();
    assert_eq!(found, Ratio { median: 50.5, interval: Some((40.0, 61.0)) });
}

#[test]
fn a_few_turns_say_nothing_of_an_interval() {
    assert_eq!(ratio(&[1.0, 2.0], &[1.0, 1.0]), Some(Ratio { median: 1.5, interval: None }));
    assert_eq!(ratio(&[], &[]), None);
}
