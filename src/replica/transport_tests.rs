//! Senders on a wire that is slow, dead or deaf.

use super::*;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// A wire that hands parcels to the test and waits for its word.
struct Scripted {
    parcels: Mutex<std::sync::mpsc::Sender<(u64, usize)>>,
    answers: Mutex<Receiver<bool>>,
}

impl Wire for Scripted {
    fn deliver(&self, to: u64, parcel: &[u8]) -> Result<()> {
        lock(&self.parcels).send((to, parcel.len())).unwrap();
        match lock(&self.answers).recv() {
            Ok(true) => Ok(()),
            _ => Err(Error::new(Kind::Unreachable, "no answer")),
        }
    }

    fn pull(&self, _from: u64, _name: SnapshotName, _after: Option<&[u8]>) -> Result<Vec<u8>> {
        Err(Error::new(Kind::NotFound, "no snapshot"))
    }

    fn ask(&self, _to: u64, _envelope: &[u8]) -> Result<Vec<u8>> {
        unreachable!("nothing here has chunks")
    }
}

fn message(to: u64, bytes: usize) -> Message {
    Message { from: 1, to, context: vec![7; bytes].into(), ..Message::default() }
}

struct Bench {
    transport: Transport,
    parcels: Receiver<(u64, usize)>,
    answer: std::sync::mpsc::Sender<bool>,
    lost: Receiver<u64>,
}

fn bench() -> Bench {
    let ((parcel, parcels), (answer, answers), (tell, lost)) = (channel(), channel(), channel());
    let own = Sender { cluster: "c".into(), group: 0, incarnation: 1, id: 1, starts: 1, run: 1 };
    let wire = Arc::new(Scripted { parcels: Mutex::new(parcel), answers: Mutex::new(answers) });
    let tell = Mutex::new(tell);
    let transport = Transport::new(own, wire, move |peer| lock(&tell).send(peer).unwrap_or(()));
    Bench { transport, parcels, answer, lost }
}

const SOON: Duration = Duration::from_secs(20);

#[test]
fn what_gathers_while_a_parcel_is_under_way_goes_together() {
    let bench = bench();
    bench.transport.send(vec![message(2, 10)]);
    let (_, first) = bench.parcels.recv_timeout(SOON).unwrap();
    for _ in 0..100 {
        bench.transport.send(vec![message(2, 10)]);
    }
    bench.answer.send(true).unwrap();
    let (to, second) = bench.parcels.recv_timeout(SOON).unwrap();
    assert!(to == 2 && second > 100 * 10 && second > first);
    bench.answer.send(true).unwrap();
}

#[test]
fn a_full_queue_and_a_dead_member_are_reported() {
    let bench = bench();
    for _ in 0..60 {
        bench.transport.send(vec![message(2, 1 << 20)]);
    }
    assert_eq!(bench.lost.recv_timeout(SOON).unwrap(), 2, "the queue is full");
    while bench.lost.try_recv().is_ok() {}
    bench.answer.send(false).unwrap();
    assert_eq!(bench.lost.recv_timeout(SOON).unwrap(), 2, "the parcel did not arrive");
}

#[test]
fn a_sender_ends_with_its_transport() {
    let Bench { transport, parcels, answer, .. } = bench();
    transport.send(vec![message(2, 1)]);
    parcels.recv_timeout(SOON).unwrap();
    answer.send(true).unwrap();
    drop(transport);
    let deadline = Instant::now() + SOON;
    // The wire goes with the last thread that holds it, and with it this end.
    while !matches!(parcels.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected)) {
        assert!(Instant::now() < deadline, "the thread does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
}
