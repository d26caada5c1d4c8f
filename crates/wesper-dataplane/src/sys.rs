//! The system calls that the standard library does not have: this crate's unsafe code, but for one call in `checksum`.
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::{mem, ptr};

use crate::ancillary::{self, ADDRESS, CONTROL, Control, Told};

/// Makes a descriptor of one's own of a descriptor that the caller keeps.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes any number and fails for one that is no descriptor; what it returns is new and ours alone.
    unsafe {
        let new = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0);
        if new < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(new)) }
    }
}

/// Makes reads and writes of a descriptor, and of all others of the same open file, return at once.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a call with numbers alone.
    let result = unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        if flags < 0 { flags } else { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes an eventfd: readable from the first write to it until it is read.
pub(crate) fn event() -> io::Result<OwnedFd> {
    // SAFETY: a call with numbers alone; what it returns is new and ours alone.
    unsafe {
        let new = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        if new < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(new)) }
    }
}

/// Keeps signals from the calling thread, so that they wake the one that waits for them.
pub(crate) fn block_signals() {
    // SAFETY: the set is filled in before it is used; both calls take pointers to it that are valid, and no old set.
    unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, ptr::null_mut());
    }
}

/// Has the calling thread's sleeps be as short as they were asked for: by default the kernel may add 50 microseconds.
pub(crate) fn be_punctual() {
    // SAFETY: PR_SET_TIMERSLACK takes one number. Where it is refused, sleeps are longer.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
}

/// Sets a socket option whose value is an int.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value outlives the call, and its size is passed with it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&value).cast(),
            mem::size_of_val(&value) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Nanoseconds on the monotonic clock, the one of Python's `time.monotonic_ns`.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes. CLOCK_MONOTONIC exists on every Linux, so the call can't fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What a wait was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    /// There is something to read.
    pub(crate) input: bool,
    /// The descriptor has an error of its own to tell.
    pub(crate) error: bool,
    /// The other descriptor can be read: it is time to end.
    pub(crate) stop: bool,
}

/// Waits until a descriptor, or `stop`, can be read. timeout_ms: negative is for ever.
pub(crate) fn wait(fd: Option<BorrowedFd<'_>>, stop: BorrowedFd<'_>, timeout_ms: i32) -> io::Result<Ready> {
    let entry = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // A negative descriptor is left out by the kernel.
    let mut both = [entry(fd.map_or(-1, |fd| fd.as_raw_fd())), entry(stop.as_raw_fd())];
    // SAFETY: two entries, valid for reads and writes.
    let result = unsafe { libc::poll(both.as_mut_ptr(), 2, timeout_ms) };
    if result < 0 {
        let error = io::Error::last_os_error();
        let interrupted = error.kind() == io::ErrorKind::Interrupted;
        return if interrupted { Ok(Ready { input: false, error: false, stop: false }) } else { Err(error) };
    }
    let errors = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
    Ok(Ready {
        input: both[0].revents & libc::POLLIN != 0,
        error: both[0].revents & errors != 0,
        stop: both[1].revents != 0,
    })
}

/// One datagram that came, or several that the kernel has put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Octets.
    pub(crate) octets: usize,
    /// Where from; none if the kernel told another family.
    pub(crate) source: Option<SocketAddr>,
    /// What else the kernel says of it.
    pub(crate) told: Told,
    /// There was more than had room.
    pub(crate) is_truncated: bool,
}

/// Room for what comes with the messages of one call.
pub(crate) struct Intake {
    headers: Vec<libc::mmsghdr>,
    names: Vec<[u8; ADDRESS]>,
    controls: Vec<Control>,
    parts: Vec<libc::iovec>,
}

impl Intake {
    /// messages: the most that one call takes.
    pub(crate) fn new(messages: usize) -> Self {
        Self {
            // SAFETY: these structs of numbers and pointers may be all zeros.
            headers: vec![unsafe { mem::zeroed() }; messages],
            names: vec![[0; ADDRESS]; messages],
            controls: vec![Control([0; CONTROL]); messages],
            // SAFETY: the same.
            parts: vec![unsafe { mem::zeroed() }; messages],
        }
    }

    /// Receives what is there, at once. buf: message i begins `front` octets into stretch i of `stride` octets, and
    /// takes the rest of it. Returns how many came.
    pub(crate) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        buf: &mut [u8],
        stride: usize,
        front: usize,
    ) -> io::Result<usize> {
        let mut count = 0;
        let all = self.headers.iter_mut().zip(&mut self.names).zip(&mut self.controls).zip(&mut self.parts);
        for ((((header, name), control), part), place) in all.zip(buf.chunks_exact_mut(stride)) {
            let place = place.get_mut(front..).unwrap_or_default();
            *part = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() };
            header.msg_hdr.msg_name = name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = ADDRESS as libc::socklen_t;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL as _;
            count += 1;
        }
        // SAFETY: `count` headers have just been filled in, each with pointers to memory that is borrowed for as long
        // as this call, exclusively and apart from each other, and with its size.
        let result = unsafe {
            libc::recvmmsg(fd.as_raw_fd(), self.headers.as_mut_ptr(), count, libc::MSG_DONTWAIT as _, ptr::null_mut())
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// Returns what came with message `index` of the last call.
    pub(crate) fn arrival(&self, index: usize) -> Option<Arrival> {
        let header = self.headers.get(index)?;
        let name = self.names.get(index)?;
        let control = &self.controls.get(index)?.0;
        Some(Arrival {
            octets: header.msg_len as usize,
            source: ancillary::read_address(name.get(..header.msg_hdr.msg_namelen as usize)?),
            told: ancillary::read_control(control.get(..header.msg_hdr.msg_controllen)?),
            is_truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        })
    }
}

/// A message to be sent.
pub(crate) struct Message {
    /// Where to; what is in front of the port counts alone on a raw socket.
    pub(crate) name: [u8; ADDRESS],
    /// Octets of the name.
    pub(crate) name_octets: usize,
    /// Control messages.
    pub(crate) control: Control,
    /// Octets of them.
    pub(crate) control_octets: usize,
    /// How many of the parts are its.
    pub(crate) parts: usize,
}

/// Room for what goes with the messages of one call.
#[derive(Default)]
pub(crate) struct Outlet {
    headers: Vec<libc::mmsghdr>,
}

impl Outlet {
    /// Sends messages, at once, as far as it goes. parts: of all messages, one after another.
    ///
    /// Returns how many went, if any did; otherwise the error is of the first.
    pub(crate) fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        messages: &mut [Message],
        parts: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        self.headers.clear();
        let mut rest = parts;
        for message in messages.iter_mut() {
            let Some((mine, others)) = rest.split_at_checked(message.parts) else { break };
            rest = others;
            // SAFETY: a struct of numbers and pointers may be all zeros.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_name = message.name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = message.name_octets.min(ADDRESS) as libc::socklen_t;
            // IoSlice promises the layout of iovec.
            header.msg_hdr.msg_iov = mine.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_iovlen = mine.len() as _;
            if message.control_octets > 0 {
                header.msg_hdr.msg_control = message.control.0.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = message.control_octets.min(CONTROL) as _;
            }
            self.headers.push(header);
        }
        // SAFETY: all headers point to memory that is borrowed for as long as this call, with its sizes; sendmmsg writes
        // to the headers alone.
        let result = unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as _,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }
}

/// Says whether a socket takes an option, without changing it.
pub(crate) fn has_option(fd: BorrowedFd<'_>, level: i32, option: i32) -> bool {
    let mut value = 0_i32;
    let mut octets = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: value and size are valid for writes, and the size is the value's.
    unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, ptr::from_mut(&mut value).cast(), &raw mut octets) == 0 }
}

/// Raises or lowers an eventfd.
pub(crate) fn ring(event: &impl AsFd) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: eight octets, valid for reads. It fails only if the counter is at its end, and then it is raised already.
    unsafe { libc::write(event.as_fd().as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Lowers an eventfd.
pub(crate) fn hush(event: &impl AsFd) {
    let mut count = [0_u8; 8];
    // SAFETY: eight octets, valid for writes. It fails only if it is not raised.
    unsafe { libc::read(event.as_fd().as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}
