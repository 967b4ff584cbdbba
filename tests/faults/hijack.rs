//! Arbitrary code in a real render worker of a real service: machine code is written into its memory, behind the call in which
//! it waits for a job, and the next job sets it going.
#![cfg(target_arch = "x86_64")]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    client::{Client, path_url},
    harness::{KEY, Site, wait_for},
    report::Row,
    tools::{self, random, scale},
};

/// What a worker waits in.
const RECVMSG: &str = "47";
/// Jumps to itself for ever.
const LOOP: [u8; 2] = [0xEB, 0xFE];
/// An instruction that is none.
const ILLEGAL: [u8; 2] = [0x0F, 0x0B];

/// The worker's process, and where it goes on when a job comes.
fn waiting(site: &Site) -> (i32, u64) {
    let mut found = None;
    let idle = || {
        let [pid] = site.workers()[..] else { return false };
        let Ok(call) = fs::read_to_string(format!("/proc/{pid}/syscall")) else { return false };
        let mut fields = call.split_whitespace();
        let place = fields.next().filter(|number| *number == RECVMSG).and_then(|_| fields.last());
        found =
            place.and_then(|place| u64::from_str_radix(place.trim_start_matches("0x"), 16).ok()).map(|at| (pid, at));
        found.is_some()
    };
    wait_for(Duration::from_secs(15), idle).expect("a worker that waits for a job");
    found.unwrap()
}

/// Calls the kernel with these arguments; whoever comes back from it loops for ever.
fn call(number: u32, arguments: [u32; 4]) -> Vec<u8> {
    let mut code = Vec::new();
    // mov edi, esi, edx, r10d
    for (operation, argument) in [&[0xBF_u8][..], &[0xBE], &[0xBA], &[0x41, 0xBA]].into_iter().zip(arguments) {
        code.extend(operation);
        code.extend(argument.to_le_bytes());
    }
    code.push(0xB8); // mov eax
    code.extend(number.to_le_bytes());
    code.extend([0x0F, 0x05]); // syscall
    code.extend(LOOP);
    code
}

/// Maps and touches memory, 64 KiB at a time, until there is no more; then an illegal instruction.
fn glutton() -> Vec<u8> {
    let mut code = vec![
        0xB8, 9, 0, 0, 0, // mov eax, mmap
        0x31, 0xFF, // xor edi, edi
        0xBE, 0, 0, 1, 0, // mov esi, 64 KiB
        0xBA, 3, 0, 0, 0, // mov edx, PROT_READ | PROT_WRITE
        0x41, 0xBA, 0x22, 0, 0, 0, // mov r10d, MAP_PRIVATE | MAP_ANONYMOUS
        0x49, 0xC7, 0xC0, 0xFF, 0xFF, 0xFF, 0xFF, // mov r8, -1
        0x45, 0x31, 0xC9, // xor r9d, r9d
        0x0F, 0x05, // syscall
        0x48, 0x85, 0xC0, // test rax, rax
    ];
    // In each of its 16 pages, a byte.
    let touch: Vec<u8> =
        (0..16_u32).flat_map(|page| [&[0xC6, 0x80][..], &(page << 12).to_le_bytes(), &[1]].concat()).collect();
    code.extend([0x78, touch.len() as u8 + 5]); // js to the end
    code.extend(touch);
    let back = -(code.len() as i32 + 5);
    code.push(0xE9); // jmp to the beginning
    code.extend(back.to_le_bytes());
    code.extend(ILLEGAL);
    code
}

#[test]
fn arbitrary_code_in_a_worker() {
    let row = Row::begin("arbitrary code in a worker", "T07 T31 F27 F29 F30");
    if !tools::is_root() {
        return row.skipped("writing into another process takes root");
    }
    let deadline = Duration::from_secs(3);
    let site = Site::new(
        "[render]\nworkers = 1\ndeadline_seconds = 3.0\nmemory_budget = \"64MiB\"\n[log]\nlevel = \"warn\"\n",
    )
    .serve();
    site.add("photo_land.jpg", "a.jpg");
    let gate = site.service_pid();
    let died = |cause: &str| site.metric(&format!("sendimage_workers_died_total{{cause=\"{cause}\"}}"));
    let mut attempts: Vec<(&str, Vec<u8>, &str, u16)> = vec![
        ("an endless loop", LOOP.to_vec(), "deadline", 504),
        ("a stack overflow", vec![0x50, 0xEB, 0xFD], "SIGSEGV", 200), // push rax, for ever
        ("an illegal instruction", ILLEGAL.to_vec(), "SIGILL", 200),
        ("a breakpoint", vec![0xCC], "SIGTRAP", 200),
        ("a write to address 0", vec![0x31, 0xC0, 0x89, 0x00], "SIGSEGV", 200),
        ("a division by 0", vec![0x31, 0xC9, 0xF7, 0xF1], "SIGFPE", 200),
        ("all memory there is", glutton(), "SIGILL", 200),
        ("an exit", call(231, [0, 0, 0, 0]), "exit", 200),
        ("a system call of 32 bits", vec![0xB8, 5, 0, 0, 0, 0xCD, 0x80, 0xEB, 0xFE], "SIGSYS", 200),
    ];
    let calls: [(&str, u32, [u32; 4]); 40] = [
        ("open", 2, [0; 4]),
        ("openat", 257, [0; 4]),
        ("openat2", 437, [0; 4]),
        ("creat", 85, [0; 4]),
        ("stat", 4, [0; 4]),
        ("statx", 332, [0; 4]),
        ("access", 21, [0; 4]),
        ("readlink", 89, [0; 4]),
        ("getdents64", 217, [0; 4]),
        ("unlink", 87, [0; 4]),
        ("rename", 82, [0; 4]),
        ("chmod", 90, [0; 4]),
        ("mount", 165, [0; 4]),
        ("socket", 41, [2, 1, 0, 0]),
        ("connect", 42, [0; 4]),
        ("bind", 49, [0; 4]),
        ("sendto", 44, [0; 4]),
        ("fork", 57, [0; 4]),
        ("vfork", 58, [0; 4]),
        ("clone", 56, [0; 4]),
        ("clone3", 435, [0; 4]),
        ("execve", 59, [0; 4]),
        ("execveat", 322, [0; 4]),
        ("ptrace", 101, [16, gate, 0, 0]),
        ("process_vm_readv", 310, [gate, 0, 0, 0]),
        ("process_vm_writev", 311, [gate, 0, 0, 0]),
        ("pidfd_getfd", 438, [0; 4]),
        ("kill", 62, [gate, 9, 0, 0]),
        ("tgkill of the gate", 234, [gate, gate, 9, 0]),
        ("prlimit of the gate", 302, [gate, 0, 0, 0]),
        ("prctl", 157, [4, 1, 0, 0]),
        ("memfd_create", 319, [0; 4]),
        ("dup", 32, [0; 4]),
        ("ioctl", 16, [2, 0x5412, 0, 0]),
        ("io_uring_setup", 425, [0; 4]),
        ("bpf", 321, [0; 4]),
        ("userfaultfd", 323, [0; 4]),
        ("keyctl", 250, [0; 4]),
        ("mmap of executable memory", 9, [0, 4096, 7, 0x22]),
        ("mprotect to executable", 10, [0, 4096, 5, 0]),
    ];
    let mut calls = calls.map(|(name, number, arguments)| (name, call(number, arguments), "SIGSYS", 200));
    random("arbitrary code in a worker").shuffle(&mut calls);
    let forbidden = scale(8, calls.len());
    attempts.extend(calls.into_iter().take(forbidden));
    let (mut width, count) = (20, attempts.len());
    for (what, code, cause, status) in attempts {
        let (pid, place) = waiting(&site);
        let memory = File::options().write(true).open(format!("/proc/{pid}/mem")).unwrap();
        if let Err(error) = memory.write_all_at(&code, place) {
            return row.skipped(&format!("this kernel lets nobody write into a program's code: {error}"));
        }
        width += 1;
        let before = died(cause);
        let url = path_url(KEY.as_bytes(), "a.jpg", &format!("width-{width}"));
        let began = Instant::now();
        let answer = Client::gate(&site).get(url.as_bytes());
        let took = began.elapsed();
        assert_eq!(answer.status, status, "{what}: {}", site.log());
        assert!(took < deadline + deadline / 10, "{what}: {took:?}");
        assert_eq!(died(cause), before + 1.0, "{what}: {}", site.log());
        // And the next is served, by a worker that has nothing to do with it.
        assert_eq!(
            Client::gate(&site).get(path_url(KEY.as_bytes(), "a.jpg", &format!("height-{width}")).as_bytes()).status,
            200
        );
        // One that has done a job looks for a second whether another comes, and waits elsewhere. A fresh one does not.
        for pid in site.workers() {
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
    }
    assert_eq!(site.service_pid(), gate);
    row.passed(&format!(
        "{count} pieces of machine code run by a real worker with a job at hand, {forbidden} of them forbidden system calls: \
         each died of it with its cause counted, the job was done by the next worker (the endless loop: 504 at the deadline)"
    ));
}
