//! Places, the queue and its limits, under a clock that stands still.

use std::{pin::pin, time::Duration};

use futures_util::{
    FutureExt,
    future::join_all,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::time::advance;

use super::*;
use crate::telemetry::Metrics;

const TIMEOUT: Duration = Duration::from_secs(3);

fn bulkhead(max_concurrent: u32, max_pending: u32) -> Bulkhead {
    Bulkhead::new(&resilience::Bulkhead { max_concurrent, max_pending, queue_timeout: TIMEOUT })
}

fn gauges() -> Arc<ClusterGauges> {
    Metrics::new().cluster(&"shop.default:80".into())
}

/// Queued now, queued ever, milliseconds waited, refused.
fn figures(gauges: &ClusterGauges) -> [u64; 4] {
    let [active, queued, waited_us, rejected] =
        [&gauges.queued_active, &gauges.queued, &gauges.queue_wait_us, &gauges.bulkhead_rejected]
            .map(|figure| figure.load(Relaxed));
    [active, queued, waited_us / 1000, rejected]
}

#[tokio::test(start_paused = true)]
async fn what_finds_neither_place_nor_room_is_refused_at_once() {
    let (bulkhead, gauges) = (bulkhead(2, 1), gauges());
    let first = bulkhead.enter(&gauges).now_or_never().unwrap().unwrap();
    let _second = bulkhead.enter(&gauges).now_or_never().unwrap().unwrap();
    let mut waiting = pin!(bulkhead.enter(&gauges));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert_eq!(bulkhead.enter(&gauges).now_or_never().unwrap().unwrap_err(), Limit::MaxPending);
    assert_eq!(figures(&gauges), [1, 1, 0, 1]);

    advance(Duration::from_millis(250)).await;
    drop(first);
    let third = waiting.now_or_never().unwrap().unwrap();
    assert_eq!(figures(&gauges), [0, 1, 250, 1]);
    assert_eq!(bulkhead.free(), 0);
    drop(third);
    assert_eq!(bulkhead.free(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_timeout() {
    let (bulkhead, gauges) = (bulkhead(1, 2), gauges());
    let place = bulkhead.enter(&gauges).await.unwrap();
    let start = Instant::now();
    assert_eq!(bulkhead.enter(&gauges).await.unwrap_err(), Limit::QueueTimeout);
    assert!(start.elapsed() >= TIMEOUT && start.elapsed() < TIMEOUT + Duration::from_millis(10));
    assert_eq!(figures(&gauges)[0], 0);
    drop(place);
    assert!(bulkhead.enter(&gauges).now_or_never().unwrap().is_ok(), "who has left the queue gets no place");
}

#[tokio::test(start_paused = true)]
async fn who_vanishes_leaves_the_queue_and_the_place() {
    let (bulkhead, gauges) = (bulkhead(1, 1), gauges());
    let place = bulkhead.enter(&gauges).await.unwrap();
    {
        let mut vanishing = pin!(bulkhead.enter(&gauges));
        assert!(vanishing.as_mut().now_or_never().is_none());
        // It is handed the place, but does not live to take it.
        drop(place);
    }
    assert_eq!(figures(&gauges)[0], 0);
    assert!(bulkhead.enter(&gauges).now_or_never().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn places_are_handed_on_in_the_order_of_arrival() {
    let (bulkhead, gauges) = (bulkhead(1, 10), gauges());
    let place = bulkhead.enter(&gauges).await.unwrap();
    let mut waiting = FuturesUnordered::new();
    for number in 0..10 {
        let mut enter = Box::pin(bulkhead.enter(&gauges));
        assert!(enter.as_mut().now_or_never().is_none());
        waiting.push(enter.map(move |place| (number, place.unwrap())));
    }
    drop(place);
    for expected in 0..10 {
        let newcomer = bulkhead.enter(&gauges).now_or_never();
        assert!(newcomer.is_none_or(|entered| entered.is_err()), "nobody overtakes");
        let (number, place) = waiting.next().await.unwrap();
        assert_eq!(number, expected);
        drop(place);
    }
}

#[tokio::test(start_paused = true)]
async fn never_more_than_allowed_are_under_way() {
    let (bulkhead, gauges) = (bulkhead(10, 20), gauges());
    let under_way = AtomicU32::new(0);
    let results = join_all((0..100).map(|_| async {
        let _place = bulkhead.enter(&gauges).await?;
        assert!(under_way.fetch_add(1, Relaxed) < 10);
        tokio::time::sleep(Duration::from_secs(1)).await;
        under_way.fetch_sub(1, Relaxed);
        Ok(())
    }))
    .await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 30);
    assert_eq!(results.iter().filter(|result| **result == Err(Limit::MaxPending)).count(), 70);
    assert_eq!(figures(&gauges), [0, 20, 30_000, 70], "ten waited 1 s, ten waited 2 s");
    assert_eq!(bulkhead.free(), 10);
}

#[tokio::test(start_paused = true)]
async fn without_a_queue_nobody_waits() {
    let (bulkhead, gauges) = (bulkhead(1, 0), gauges());
    let _place = bulkhead.enter(&gauges).await.unwrap();
    assert_eq!(bulkhead.enter(&gauges).now_or_never().unwrap().unwrap_err(), Limit::MaxPending);
}
