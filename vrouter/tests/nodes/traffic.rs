//! Traffic between two namespaces: pings by `ping`, TCP by sockets of our own that check every
//! byte.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::namespace::Namespace;

/// How long a test waits for what must happen: the machine may stall for seconds.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// Bytes of one TCP transfer each way.
const TRANSFER_BYTES: usize = 4 << 20;

/// Pings until an answer comes, then counts on every answer.
pub(crate) fn assert_pings(from: &Namespace, to: IpAddr) {
    let deadline = Instant::now() + PATIENCE;
    while !from.try_run(&format!("ping -c 1 -W 1 {to}")).status.success() {
        assert!(Instant::now() < deadline, "{} does not reach {to}", from.name());
    }
    for bytes in [56, 1200] {
        // All at once: after its last request `ping` waits no longer than the interval, or twice
        // what an answer took so far, and the machine may stall.
        let command = format!("ping -c 10 -l 10 -i 10 -W 10 -s {bytes} {to}");
        let output = from.try_run(&command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(" 0% packet loss"), "{command}: {text}");
    }
}

/// Sends data to a listener, which sends it back; checks all of it, and that the listener sees the
/// source `from_address`.
pub(crate) fn assert_tcp(
    from: &Namespace,
    from_address: IpAddr,
    to: &Namespace,
    to_address: IpAddr,
) {
    let listener = to.inside(|| TcpListener::bind((to_address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (stream, peer) = listener.accept().unwrap();
            assert_eq!(peer.ip(), from_address, "the source address is kept");
            echo(stream);
        });
        let stream = from.inside(|| TcpStream::connect_timeout(&target, PATIENCE).unwrap());
        assert_echoed(scope, stream);
        server.join().unwrap();
    });
}

/// A call with a time limit ends early when a signal comes, or when the machine was stopped
/// meanwhile.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn echo(mut stream: TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match uninterrupted(|| stream.read(&mut buffer)).unwrap() {
            0 => break,
            count => stream.write_all(&buffer[..count]).unwrap(),
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

fn assert_echoed<'scope>(scope: &'scope thread::Scope<'scope, '_>, stream: TcpStream) {
    let data: Vec<u8> = (0..TRANSFER_BYTES).map(|index| (index % 251).to_le_bytes()[0]).collect();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut sending = stream.try_clone().unwrap();
    let sent = data.clone();
    let sender = scope.spawn(move || {
        sending.write_all(&sent).unwrap();
        sending.shutdown(Shutdown::Write).unwrap();
    });
    let mut receiving = stream;
    let mut back = Vec::new();
    receiving.read_to_end(&mut back).unwrap();
    sender.join().unwrap();
    assert!(back == data, "{} of {} bytes came back as they were", back.len(), data.len());
}
