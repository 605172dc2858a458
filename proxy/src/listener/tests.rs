use std::{cell::RefCell, rc::Rc};

use tokio::{runtime::LocalRuntime, sync::mpsc::UnboundedReceiver};

use super::*;
use crate::rt::task;

const PATIENCE: Duration = Duration::from_secs(10);

/// Workers on threads of their own, which keep every connection and tell who got it.
struct Workers {
    addr: SocketAddr,
    drain: Drain,
    metrics: Arc<Metrics>,
    served: UnboundedReceiver<usize>,
    dismiss: Vec<mpsc::UnboundedSender<()>>,
    threads: Vec<std::thread::JoinHandle<io::Result<()>>>,
}

fn start(workers: usize, most: usize) -> Workers {
    let socket = socket::listen("--x", "127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    let (drain, metrics) = (Drain::new(), Metrics::new());
    let (tell, served) = mpsc::unbounded_channel();
    let (mut dismiss, mut threads) = (Vec::new(), Vec::new());
    for acceptor in share(&socket, workers, most).unwrap() {
        let (drain, metrics, tell) = (drain.clone(), Arc::clone(&metrics), tell.clone());
        let (dismissal, mut dismissed) = mpsc::unbounded_channel();
        dismiss.push(dismissal);
        threads.push(std::thread::spawn(move || {
            LocalRuntime::new().unwrap().block_on(async {
                let kept = Rc::new(RefCell::new(Vec::new()));
                let keeping = Rc::clone(&kept);
                task::spawn_local_connection("dismissal", async move {
                    while dismissed.recv().await.is_some() {
                        keeping.borrow_mut().pop();
                    }
                });
                let worker = acceptor.worker;
                let keep = |stream: TcpStream, _, open| {
                    assert!(stream.nodelay().unwrap());
                    kept.borrow_mut().push((stream, open));
                    tell.send(worker).unwrap();
                };
                acceptor.run(&drain, &metrics, keep).await
            })
        }));
    }
    Workers { addr, drain, metrics, served, dismiss, threads }
}

impl Workers {
    async fn next(&mut self) -> usize {
        tokio::time::timeout(PATIENCE, self.served.recv()).await.unwrap().unwrap()
    }

    fn end(self) {
        self.drain.close();
        for thread in self.threads {
            thread.join().unwrap().unwrap();
        }
        assert_eq!(self.metrics.proxy.downstream_connections.get(), 0);
        assert_eq!(self.drain.open(), 0);
    }
}

#[tokio::test]
async fn few_long_lived_connections_are_spread_evenly() {
    let mut workers = start(3, 100);
    let mut clients = Vec::new();
    let mut served = [0; 3];
    for _ in 0..9 {
        clients.push(TcpStream::connect(workers.addr).await.unwrap());
        served[workers.next().await] += 1;
    }
    assert_eq!(served, [3, 3, 3]);
    assert_eq!(workers.metrics.proxy.downstream_connections.get(), 9);
    assert_eq!(workers.drain.open(), 9);
    workers.end();
}

#[tokio::test]
async fn beyond_the_limit_connections_wait_for_others_to_end() {
    let mut workers = start(1, 2);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpStream::connect(workers.addr).await.unwrap());
    }
    workers.next().await;
    workers.next().await;
    assert_eq!(workers.metrics.proxy.downstream_connections.get(), 2);
    let early = tokio::time::timeout(Duration::from_millis(50), workers.served.recv()).await;
    assert!(early.is_err(), "the third must wait");
    workers.dismiss[0].send(()).unwrap();
    workers.next().await;
    assert_eq!(workers.metrics.proxy.downstream_connections.get(), 2);
    workers.end();
}

#[tokio::test]
async fn a_draining_listener_still_accepts() {
    let mut workers = start(2, 100);
    workers.drain.begin();
    let _client = TcpStream::connect(workers.addr).await.unwrap();
    workers.next().await;
    workers.end();
}

#[test]
fn small_differences_are_not_worth_a_wake_up() {
    let (taker, _given) = mpsc::channel(1);
    for (open, accepting, expected) in [
        (&[0][..], 0, 0),
        (&[0, 0], 0, 0),
        (&[0, 0], 1, 1),
        (&[1, 0], 0, 1),
        (&[1, 0], 1, 1),
        (&[2, 1, 0], 0, 2),
        (&[64, 60], 0, 0),
        (&[64, 55], 0, 1),
    ] {
        let shared = Shared {
            open: open.iter().map(|n| AtomicUsize::new(*n)).collect(),
            takers: vec![taker.clone(); open.len()].into(),
            limit: Arc::new(Semaphore::new(1)),
        };
        assert_eq!(shared.taker(accepting), expected, "{open:?} on {accepting}");
    }
}

#[test]
fn running_out_of_descriptors_pauses_and_a_lost_client_does_not() {
    const ECONNABORTED: i32 = 103;
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOBUFS: i32 = 105;
    assert!(is_of_the_connection(&io::Error::from_raw_os_error(ECONNABORTED)));
    for errno in [EMFILE, ENFILE, ENOBUFS] {
        assert!(!is_of_the_connection(&io::Error::from_raw_os_error(errno)));
    }
}
