use super::*;

const OUTCOME: Outcome = Outcome {
    status: 200,
    flag: Flag::None,
    grpc: false,
    grpc_status: None,
    secured: false,
    duration: Duration::from_millis(3),
    request_bytes: 10,
    response_bytes: 20,
};

#[test]
fn kinds_survive_packing() {
    for status in [0, 200, 503, u16::MAX] {
        for flag in Flag::ALL {
            for (grpc, grpc_status) in [(false, None), (true, None), (true, Some(0)), (true, Some(14))] {
                let kind = Kind { status, flag, grpc, grpc_status, secured: grpc_status.is_some() };
                assert_ne!(kind.pack(), 0);
                assert_eq!(Kind::unpack(kind.pack()), kind);
            }
        }
    }
}

#[test]
fn outcomes_are_counted_by_kind_from_all_threads() {
    let stats = RequestStats::free(Labels::default());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..3000 {
                    stats.record(&Outcome { status: 200 + n % 3, ..OUTCOME }, None);
                }
            });
        }
    });
    let (mut kinds, other) = stats.read();
    kinds.sort_by_key(|(kind, _)| kind.status);
    let counts: Vec<_> = kinds.iter().map(|(kind, count)| (kind.status, *count)).collect();
    assert_eq!(counts, [(200, 4000), (201, 4000), (202, 4000)]);
    assert_eq!(other, 0);
    let figures = stats.figures.get().unwrap();
    assert_eq!(figures.duration.read().count, 12_000);
    let sums = (figures.request_bytes.read().sum, figures.response_bytes.read().sum);
    assert_eq!(sums, (120_000.0, 240_000.0));
}

fn room(series: usize) -> Room {
    Room { budget: Budget::new(series), overflow: Arc::new(RequestStats::free(Labels::overflow())) }
}

#[test]
fn more_kinds_than_slots_or_budget_share_a_line() {
    let unlimited = RequestStats::free(Labels::default());
    let tight = RequestStats::within(room(RequestStats::SERIES + 10), Labels::default());
    for status in 0..1000 {
        unlimited.record(&Outcome { status, ..OUTCOME }, None);
        tight.record(&Outcome { status, ..OUTCOME }, None);
    }
    for (stats, lines) in [(unlimited, SLOTS), (tight, 10)] {
        let (kinds, other) = stats.read();
        assert_eq!(kinds.len(), lines);
        assert_eq!(other, 1000 - lines as u64);
    }
}

#[test]
fn room_is_taken_with_the_first_request_and_given_back() {
    let room = room(RequestStats::SERIES + 1);
    let set = || RequestStats::within(room.clone(), Labels::default());
    let (idle, first, second) = (set(), set(), set());
    first.record(&OUTCOME, None);
    second.record(&OUTCOME, None);
    second.record(&OUTCOME, None);
    assert_eq!(
        [&idle, &first, &second, &room.overflow].map(|stats| stats.is_told()),
        [false, true, false, true]
    );
    assert_eq!(room.overflow.read().0.iter().map(|(_, count)| count).sum::<u64>(), 2);
    drop(first);
    let third = set();
    third.record(&OUTCOME, None);
    assert!(third.is_told(), "what the first had is free again");
}
