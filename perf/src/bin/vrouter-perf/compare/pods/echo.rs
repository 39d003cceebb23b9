//! Round trips: one byte over TCP, and one back.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use hdrhistogram::Histogram;
use perf::{machine, peers::Namespace};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Exchanges before the first that counts: routes and neighbours are known then, and caches warm.
const WARM_UP_TRIPS: u32 = 500;
/// How long a round trip may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest round trip that is told from longer ones, in nanoseconds.
const LONGEST_NANOSECONDS: u64 = 10_000_000_000;

/// How long round trips took.
#[derive(Clone, Debug)]
pub(super) struct RoundTrips {
    pub(super) median_microseconds: f64,
    pub(super) p99_microseconds: f64,
}

/// Sends to and fro for a while: the client on the first of `cpus`, the server on the last.
pub(super) fn run(
    pods: [&Namespace; 2],
    address: IpAddr,
    cpus: &[usize],
    time: Duration,
) -> anyhow::Result<RoundTrips> {
    let [near, far] = pods.map(|pod| format!("/run/netns/{}", pod.name()));
    let (first, last) = (cpus.first().copied(), cpus.last().copied());
    let listener = thread::spawn(move || {
        enter(&far, last)?;
        TcpListener::bind(SocketAddr::new(address, 0))
    });
    let listener = listener.join().map_err(|_| anyhow!("the server's thread panicked"))??;
    let address = listener.local_addr()?;
    let answers = thread::spawn(move || {
        if let Some(cpu) = last {
            machine::move_to(cpu);
        }
        serve(&listener)
    });
    let client = thread::spawn(move || {
        enter(&near, first)?;
        exchange(address, time)
    });
    let trips = client.join().map_err(|_| anyhow!("the client's thread panicked"))?;
    let trips = trips.context("the client failed")?;
    let served = answers.join().map_err(|_| anyhow!("the server's thread panicked"))?;
    served.context("the server failed")?;
    let microseconds = |quantile| {
        let nanoseconds = trips.value_at_quantile(quantile);
        Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6
    };
    Ok(RoundTrips { median_microseconds: microseconds(0.5), p99_microseconds: microseconds(0.99) })
}

/// Moves the calling thread into a namespace, and to a CPU.
fn enter(path: &str, cpu: Option<usize>) -> io::Result<()> {
    let file = File::open(Path::new(path))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    if let Some(cpu) = cpu {
        machine::move_to(cpu);
    }
    Ok(())
}

/// Answers one client until it is done.
fn serve(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0];
    loop {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        stream.write_all(&byte)?;
    }
}

fn exchange(address: SocketAddr, time: Duration) -> anyhow::Result<Histogram<u64>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut trips = Histogram::new_with_bounds(1, LONGEST_NANOSECONDS, 3)
        .map_err(|error| anyhow!("no histogram: {error}"))?;
    for _ in 0..WARM_UP_TRIPS {
        trip(&mut stream)?;
    }
    let start = Instant::now();
    while start.elapsed() < time {
        let sent = Instant::now();
        trip(&mut stream)?;
        let took = u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX);
        trips.saturating_record(took);
    }
    Ok(trips)
}

fn trip(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[0x5a])?;
    stream.read_exact(&mut [0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || serve(&listener));
        let trips = exchange(address, Duration::from_millis(20)).unwrap();
        server.join().unwrap().unwrap();
        assert!(trips.len() > 1 && trips.value_at_quantile(0.5) > 0);
    }
}
