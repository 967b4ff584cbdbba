use std::fs::File;

use super::*;
use crate::{
    model::SourceFacts,
    render::{
        look::Look,
        plan::{Encoding, Plan},
    },
    workers::job::DecodeKey,
};

fn work(memory_bytes: u64) -> Work {
    Work {
        task: Task::Look { plan: Plan::whole(facts(), Encoding::Png), look: Look::Interest { across: 1, down: 1 } },
        source: File::open("/dev/null").unwrap().into(),
        output: None,
        mark: None,
        max_source_bytes: 1,
        memory_bytes,
        deadline: Instant::now() + Duration::from_secs(60),
        origin: file(memory_bytes),
        decode: None,
        cost: 1,
        coming: None,
    }
}

fn facts() -> SourceFacts {
    serde_json::from_str(
        r#"{"format": "jpeg", "stored_size": {"width": 9, "height": 9}, "orientation": 1, "frames": 1,
            "bytes_per_pixel": 3, "progressive": false}"#,
    )
    .unwrap()
}

#[test]
fn a_probe_goes_first_and_the_render_after_it_has_its_place() {
    let queue = admission(16, 1_000);
    let probe = |bytes| Work { task: Task::Probe, ..work(bytes) };
    let mut places: Vec<_> = (0..16).map(|at| queue.enter(Lane::Cheap, work(100 + at)).ok().unwrap()).collect();
    assert_eq!(queue.enter(Lane::Cheap, probe(1)).err(), Some(JobError::QueueFull));
    places.extend((0..2).map(|at| queue.enter(Lane::Cheap, work(200 + at)).ok().unwrap()));
    assert_eq!(queue.enter(Lane::Cheap, work(300)).err(), Some(JobError::QueueFull));
    places.truncate(15);
    let _probe = queue.enter(Lane::Cheap, probe(1)).ok().unwrap();
    assert_eq!(take(&queue), Some(1));
}

fn file(inode: u64) -> FileId {
    serde_json::from_str(&format!("[1, {inode}, 1, 1, 1]")).unwrap()
}

/// A decode of the seventh file.
fn decode(reduction: u8, goes_along: bool) -> Decode {
    Decode { key: DecodeKey { file: file(7), reduction }, bytes: 10, cost: 1, goes_along }
}

fn admission(queue_depth: usize, budget: u64) -> Arc<Admission> {
    Admission::new(queue_depth, budget, 2, Arc::new(Metrics::new()))
}

/// One worker that takes what comes next and says how large it was.
fn take(admission: &Arc<Admission>) -> Option<u64> {
    let granted = admission.turn(None).try_recv().ok()?;
    let bytes = granted.work().memory_bytes;
    granted.finish(Err(JobError::Lost));
    Some(bytes)
}

#[test]
fn lanes_go_in_order_and_each_is_first_come_first_served() {
    let queue = admission(10, 100);
    let _places = [(Lane::Warm, 1), (Lane::Costly, 2), (Lane::Cheap, 3), (Lane::Costly, 4), (Lane::Cheap, 5)]
        .map(|(lane, bytes)| queue.enter(lane, work(bytes)).ok().unwrap());
    let order: Vec<u64> = std::iter::from_fn(|| take(&queue)).collect();
    assert_eq!(order, [3, 5, 2, 4, 1]);
}

#[test]
fn a_stream_of_cheap_jobs_starves_nobody() {
    let queue = admission(1_000, 100);
    let _costly = queue.enter(Lane::Costly, work(50)).ok().unwrap();
    let _warm = queue.enter(Lane::Warm, work(60)).ok().unwrap();
    let mut places = Vec::new();
    let mut order = Vec::new();
    for _ in 0..80 {
        places.push(queue.enter(Lane::Cheap, work(1)).ok().unwrap());
        order.extend(take(&queue));
    }
    assert_eq!(order.iter().position(|bytes| *bytes == 50), Some(PATIENCE[1] as usize));
    assert_eq!(order.iter().position(|bytes| *bytes == 60), Some(PATIENCE[2] as usize));
}

#[test]
fn a_job_that_does_not_fit_is_passed_over_only_so_often() {
    let queue = admission(1_000, 100);
    let _first = queue.enter(Lane::Cheap, work(60)).ok().unwrap();
    let running = queue.turn(None).try_recv().unwrap();
    let _large = queue.enter(Lane::Cheap, work(70)).ok().unwrap();
    let mut places = Vec::new();
    let mut passed = 0;
    for _ in 0..50 {
        places.push(queue.enter(Lane::Costly, work(10)).ok().unwrap());
        passed += u32::from(take(&queue).is_some());
    }
    assert_eq!(passed, PATIENCE[0]);
    running.finish(Err(JobError::Lost));
    assert_eq!(take(&queue), Some(70));
}

#[test]
fn a_full_queue_refuses_at_once_and_a_client_displaces_a_warm_job() {
    let queue = admission(2, 100);
    let _one = queue.enter(Lane::Warm, work(1)).ok().unwrap();
    let mut warm = queue.enter(Lane::Warm, work(2)).ok().unwrap();
    assert_eq!(queue.enter(Lane::Warm, work(3)).err(), Some(JobError::QueueFull));
    let _client = queue.enter(Lane::Cheap, work(4)).ok().unwrap();
    assert_eq!(warm.answer.try_recv().unwrap().unwrap_err(), JobError::QueueFull);
    assert_eq!(queue.load().0, 2);
    let impossible = queue.enter(Lane::Cheap, work(101)).err();
    assert_eq!(impossible, Some(OverLimit::Memory { needed: 101, limit: 100 }.into()));
}

#[test]
fn gauges_are_true_and_dropped_places_leave() {
    let queue = admission(5, 100);
    let gauges = || (queue.metrics.render_queue_depth.get(), queue.metrics.render_memory_bytes.get());
    let first = queue.enter(Lane::Cheap, work(60)).ok().unwrap();
    let second = queue.enter(Lane::Cheap, work(60)).ok().unwrap();
    assert_eq!(gauges(), (2, 0));
    let granted = queue.turn(None).try_recv().unwrap();
    assert_eq!(gauges(), (1, 60));
    drop(second);
    assert_eq!(gauges(), (0, 60));
    drop(first); // its job runs: the worker goes on
    assert_eq!(gauges(), (0, 60));
    drop(granted);
    assert_eq!(gauges(), (0, 0));
}

#[test]
fn a_worker_that_died_idle_gets_no_job_and_one_in_flight_is_not_lost() {
    let queue = admission(5, 100);
    drop(queue.turn(None));
    let _place = queue.enter(Lane::Cheap, work(7)).ok().unwrap();
    assert_eq!(queue.load(), (1, 0, 0));
    assert_eq!(take(&queue), Some(7));
}

#[test]
fn a_source_with_many_jobs_lets_others_have_their_turn() {
    let queue = admission(100, 1_000);
    let of = |inode, bytes| Work { origin: file(inode), ..work(bytes) };
    let greedy = (1..=5).map(|bytes| queue.enter(Lane::Cheap, of(1, bytes)).ok().unwrap());
    let _places: Vec<_> = greedy.collect();
    let _other = queue.enter(Lane::Cheap, of(2, 20)).ok().unwrap();
    let _third = queue.enter(Lane::Cheap, of(3, 30)).ok().unwrap();
    let order: Vec<u64> = std::iter::from_fn(|| take(&queue)).collect();
    assert_eq!(order, [1, 20, 30, 2, 3, 4, 5]);
}

#[test]
fn a_decode_is_shared_by_those_who_wait_and_left_to_who_has_it() {
    let queue = admission(100, 1_000);
    let key = |reduction| Some(decode(reduction, false));
    let job = |bytes, decode| Work { origin: file(7), decode, ..work(bytes) };
    let _places = [(1, key(8)), (2, key(4)), (3, key(8)), (4, key(2)), (5, key(8))]
        .map(|(bytes, decode)| queue.enter(Lane::Cheap, job(bytes, decode)).ok().unwrap());
    let first = queue.turn(None).try_recv().unwrap();
    assert_eq!(first.work().memory_bytes, 1);
    let second = queue.turn(None).try_recv().unwrap();
    assert_eq!(second.work().memory_bytes, 2);
    second.finish(Err(JobError::Lost));
    // Not the third, which the first worker will have for little.
    let third = queue.turn(key(4)).try_recv().unwrap();
    assert_eq!(third.work().memory_bytes, 4);
    first.finish(Err(JobError::Lost));
    let order: Vec<_> = std::iter::from_fn(|| {
        let granted = queue.turn(key(8)).try_recv().ok()?;
        let found = granted.work().memory_bytes;
        granted.finish(Err(JobError::Lost));
        Some(found)
    })
    .collect();
    assert_eq!(order, [3, 5]);
    // What nobody waits for does not go before a client because of it.
    let _behind = queue.enter(Lane::Warm, job(6, key(8))).ok().unwrap();
    let _client = queue.enter(Lane::Cheap, Work { origin: file(8), ..work(7) }).ok().unwrap();
    assert_eq!(queue.turn(key(8)).try_recv().unwrap().work().memory_bytes, 7);
}

#[test]
fn of_one_picture_the_longest_goes_first_unless_others_wait() {
    let job = |bytes, cost, inode| Work { origin: file(inode), cost, ..work(bytes) };
    for others in [false, true] {
        let queue = admission(100, 1_000);
        let mut places = vec![
            queue.enter(Lane::Cheap, job(1, 1, 7)).ok().unwrap(),
            queue.enter(Lane::Cheap, job(2, 3, 7)).ok().unwrap(),
            queue.enter(Lane::Costly, job(3, 9, 7)).ok().unwrap(),
        ];
        places.extend(others.then(|| queue.enter(Lane::Cheap, job(4, 1, 8)).ok().unwrap()));
        let order: Vec<u64> = std::iter::from_fn(|| take(&queue)).collect();
        assert_eq!(order, if others { vec![1, 4, 3, 2] } else { vec![3, 2, 1] });
    }
}

#[test]
fn warm_jobs_leave_a_worker_free() {
    let queue = admission(100, 1_000);
    let _places = [1, 2].map(|bytes| queue.enter(Lane::Warm, work(bytes)).ok().unwrap());
    let running = queue.turn(None).try_recv().unwrap();
    let mut free = queue.turn(None);
    assert!(free.try_recv().is_err(), "both workers are at work ahead of time");
    let _client = queue.enter(Lane::Cheap, work(3)).ok().unwrap();
    let client = free.try_recv().unwrap();
    assert_eq!(client.work().memory_bytes, 3);
    running.finish(Err(JobError::Lost));
    assert_eq!(take(&queue), Some(2));
}

#[test]
fn a_queue_that_is_too_long_for_the_deadline_refuses_at_once() {
    let queue = admission(100, 1_000);
    queue.lock().pace.seconds_per_unit = 10.0;
    // Two workers, ten seconds each: the deadline of a minute is met by those with a dozen before them.
    let places: Vec<_> = (0..20).map_while(|_| queue.enter(Lane::Cheap, work(1)).ok()).collect();
    assert_eq!(places.len(), 12);
    assert_eq!(queue.enter(Lane::Cheap, work(1)).err(), Some(JobError::QueueFull));
}

#[tokio::test]
async fn what_nobody_wants_leaves_the_queue_unless_it_has_begun() {
    let queue = admission(100, 1_000);
    let waiting = queue.enter(Lane::Cheap, work(1)).ok().unwrap();
    assert_eq!(waiting.answer(std::future::ready(())).await.unwrap_err(), JobError::Unwanted);
    assert_eq!(queue.load(), (0, 0, 0));
    let begun = queue.enter(Lane::Cheap, work(2)).ok().unwrap();
    let granted = queue.turn(None).try_recv().unwrap();
    let answer = tokio::spawn(begun.answer(std::future::ready(())));
    tokio::task::yield_now().await;
    granted.finish(Err(JobError::Lost));
    assert_eq!(answer.await.unwrap().unwrap_err(), JobError::Lost);
}

/// What a job is to leave held beside its own decode, as reductions.
fn beside(granted: &Granted) -> Vec<u8> {
    let own = granted.work().decode;
    granted.holds().iter().filter(|held| Some(**held) != own).map(|held| held.key.reduction).collect()
}

#[test]
fn a_job_is_decoded_together_with_what_others_want_of_its_file() {
    let budget = 4_000; // held after a job of up to a quarter
    let queue = admission(100, budget);
    let job = |bytes, reduction| Work { decode: Some(decode(reduction, true)), origin: file(7), ..work(bytes) };
    let other = Decode { key: DecodeKey { file: file(8), reduction: 2 }, ..decode(2, true) };
    let progressive = Work { decode: Some(decode(2, false)), ..job(1, 2) };
    let mut places = vec![
        queue.enter(Lane::Cheap, job(100, 4)).ok().unwrap(),
        queue.enter(Lane::Costly, job(100, 8)).ok().unwrap(),
        queue.enter(Lane::Cheap, job(100, 8)).ok().unwrap(),
        queue.enter(Lane::Cheap, progressive).ok().unwrap(),
        queue.enter(Lane::Warm, job(100, 2)).ok().unwrap(),
        queue.enter(Lane::Cheap, Work { decode: Some(other), origin: file(8), ..work(100) }).ok().unwrap(),
    ];
    let first = queue.turn(None).try_recv().unwrap();
    assert_eq!((first.work().decode, beside(&first), first.memory_bytes()), (Some(decode(4, true)), vec![8], 110));
    assert_eq!(queue.load().2, 110);
    // A running job decodes the eighth already.
    places.push(queue.enter(Lane::Cheap, job(100, 1)).ok().unwrap());
    let second = queue.turn([decode(2, false)]).try_recv().unwrap();
    assert_eq!((second.work().decode, beside(&second)), (Some(decode(2, false)), vec![]));
    // What a worker holds stays with it.
    first.finish(Err(JobError::Lost));
    second.finish(Err(JobError::Lost));
    let third = queue.turn([decode(4, true), decode(8, true)]).try_recv().unwrap();
    assert_eq!((third.work().decode, beside(&third), third.memory_bytes()), (Some(decode(8, true)), vec![4], 110));
}

#[test]
fn what_does_not_fit_is_not_decoded_along() {
    for (bytes, along) in [(980, vec![8, 4]), (981, vec![8]), (992, vec![])] {
        let queue = admission(100, 4_000);
        let job = |bytes, reduction, planes| {
            let decode = Decode { bytes: planes, ..decode(reduction, true) };
            queue.enter(Lane::Cheap, Work { decode: Some(decode), cost: bytes, origin: file(7), ..work(bytes) })
        };
        let _places = [job(bytes, 2, 40), job(1, 4, 11), job(1, 8, 9)].map(|place| place.ok().unwrap());
        let granted = queue.turn(None).try_recv().unwrap();
        assert_eq!((granted.work().memory_bytes, beside(&granted)), (bytes, along));
    }
    // Nothing at all is held after a job of more than a quarter, nor waited for.
    let queue = admission(100, 4_000);
    let large = Work { decode: Some(decode(2, true)), ..work(1_001) };
    let _places =
        [large, Work { decode: Some(decode(4, true)), ..work(1) }].map(|job| queue.enter(Lane::Cheap, job).ok());
    assert_eq!(queue.turn(None).try_recv().unwrap().holds(), []);
}

#[test]
fn what_nobody_waits_for_is_decoded_along_by_its_like() {
    let queue = admission(100, 4_000);
    let job = |reduction| Work { decode: Some(decode(reduction, true)), origin: file(7), ..work(1) };
    let _places = [2, 8].map(|reduction| queue.enter(Lane::Warm, job(reduction)).ok().unwrap());
    assert_eq!(beside(&queue.turn(None).try_recv().unwrap()), [8]);
}

#[test]
fn what_a_worker_holds_goes_to_it_and_not_to_one_that_has_been_idle_longer() {
    let queue = admission(100, 4_000);
    let mut other = queue.turn(None);
    let mut holder = queue.turn([decode(8, true)]);
    let job = || Work { decode: Some(decode(8, true)), origin: file(7), cost: 5, ..work(1) };
    let _first = queue.enter(Lane::Cheap, job()).ok().unwrap();
    let granted = holder.try_recv().unwrap();
    assert!(other.try_recv().is_err());
    granted.finish(Err(JobError::Lost));
}

#[test]
fn what_a_worker_has_given_back_is_not_counted_on() {
    let queue = admission(100, 4_000);
    let mut turn = queue.turn([decode(8, true), decode(4, true)]);
    queue.lock().idle[0].since -= worker::KEEP_FOR;
    let _place = queue.enter(Lane::Cheap, Work { decode: Some(decode(8, true)), ..work(1) }).ok().unwrap();
    assert_eq!(turn.try_recv().unwrap().holds(), [decode(8, true)]);
}

#[test]
fn a_decode_under_way_is_waited_for_as_long_as_that_is_sooner_and_no_longer() {
    let queue = admission(100, 4_000);
    let job = |cost| Work { decode: Some(Decode { cost: 90, ..decode(8, true) }), origin: file(7), cost, ..work(1) };
    let _first = queue.enter(Lane::Cheap, job(95)).ok().unwrap();
    let running = queue.turn([decode(8, true)]).try_recv().unwrap(); // five left to do of it
    let _second = queue.enter(Lane::Cheap, job(93)).ok().unwrap();
    let mut idle = queue.turn(None);
    assert!(idle.try_recv().is_err());
    let _else = queue.enter(Lane::Cheap, Work { origin: file(8), ..work(2) }).ok().unwrap();
    assert_eq!(idle.try_recv().unwrap().work().memory_bytes, 2);
    // The worker that has it goes on with it, and nobody comes before it.
    let mut idle = queue.turn(None);
    let running = running.finish_and_turn(Err(JobError::Lost), vec![decode(8, true)]).try_recv().unwrap();
    assert_eq!(running.work().cost, 93);
    let _third = queue.enter(Lane::Cheap, job(94)).ok().unwrap();
    assert!(idle.try_recv().is_err());
    running.reservation.note_late();
    assert_eq!(idle.try_recv().unwrap().work().cost, 94);
}

/// What a page asks for at the same moment: six sizes of a photo of 4000x3000 pixels.
fn page() -> Vec<(Lane, Work)> {
    use crate::{
        app,
        config::RenderConfig,
        model::Size,
        spec::FilterSpec,
        workers::{Marks, cost},
    };
    let facts = SourceFacts { stored_size: Size::new(4_000, 3_000), ..facts() };
    let defaults = app::defaults(&RenderConfig::default(), &Marks::default());
    let specs = ["width-320", "width-640", "width-960", "width-1280", "width-1600", "fill-400x300"];
    let render = |spec| {
        let plan = Plan::new(&facts, &FilterSpec::parse(spec).unwrap(), None, &defaults).unwrap();
        let (memory_bytes, decode, cost) = (plan.peak_bytes(4 << 20), Decode::of(&plan, file(7)), cost(&plan));
        (Lane::of(&plan), Work { memory_bytes, decode, cost, task: Task::Render { plan }, origin: file(7), ..work(1) })
    };
    specs.into_iter().map(render).collect()
}

fn width(granted: &Granted) -> u32 {
    let Task::Render { plan } = &granted.work().task else { unreachable!() };
    plan.output_size.width
}

#[test]
fn a_page_is_two_decodes_on_two_workers() {
    let queue = admission(100, 512 << 20);
    let mut turns = [queue.turn(None), queue.turn(None)];
    let coming: Vec<_> = page().iter().map(|_| queue.expect(&"a new photo")).collect();
    let mut places = Vec::new();
    for ((lane, work), coming) in page().into_iter().zip(coming) {
        assert_eq!(queue.load().1, 0, "begun before all were there");
        places.push(queue.enter(lane, Work { coming: Some(coming), ..work }).ok().unwrap());
    }
    // By a clock of its own: what a decode takes, and 12 ns for a pixel of the rendition.
    let mut at_work: Vec<(u64, usize, Granted)> = Vec::new();
    let mut ends_of = [0; 2];
    let mut held: [Vec<Decode>; 2] = Default::default();
    let mut story: [Vec<(u32, Vec<u8>)>; 2] = Default::default();
    loop {
        for worker in 0..2 {
            let Ok(granted) = turns[worker].try_recv() else { continue };
            let own = granted.work().decode.unwrap();
            let decoded: Vec<u8> = match held[worker].contains(&own) {
                true => Vec::new(),
                false => granted.holds().iter().map(|decode| decode.key.reduction).collect(),
            };
            let decode_us = if decoded.is_empty() { 0 } else { 37_000 };
            let pixels = granted.work().cost - own.cost;
            ends_of[worker] += decode_us + pixels * 12 / 1_000;
            story[worker].push((width(&granted), decoded));
            at_work.push((ends_of[worker], worker, granted));
        }
        let Some(next) = (0..at_work.len()).min_by_key(|&at| at_work[at].0) else { break };
        let (now, worker, granted) = at_work.remove(next);
        ends_of.iter_mut().for_each(|ends| *ends = now.max(*ends));
        held[worker] = granted.holds().to_vec();
        turns[worker] = granted.finish_and_turn(Err(JobError::Lost), held[worker].clone());
    }
    assert_eq!(story[0], [(1_600, vec![1])]);
    assert_eq!(story[1][0], (1_280, vec![2, 8, 4]));
    assert!(story[1][1..].iter().all(|(_, decoded)| decoded.is_empty()), "{story:?}");
    assert_eq!(story[1].len(), 5);
}

#[test]
fn whoever_is_alone_waits_for_nobody_and_nobody_else_does() {
    let queue = admission(100, 1_000);
    let job = |bytes, coming| Work { coming, ..work(bytes) };
    let granted = |bytes, coming| {
        let mut turn = queue.turn(None);
        let place = queue.enter(Lane::Cheap, job(bytes, coming)).ok().unwrap();
        let got = turn.try_recv().ok();
        (got.is_some(), place, turn)
    };
    let alone = queue.expect(&1);
    assert!(granted(1, Some(alone)).0);
    // Two companies, each of which waits for one.
    let [(first, other), (third, fourth)] = [2, 3].map(|company| (queue.expect(&company), queue.expect(&company)));
    let (began, _place, mut turn) = granted(2, Some(first));
    assert!(!began);
    let _unrelated = queue.enter(Lane::Warm, work(3)).ok().unwrap();
    let unrelated = turn.try_recv().unwrap();
    assert_eq!(unrelated.work().memory_bytes, 3);
    let mut turn = unrelated.finish_and_turn(Err(JobError::Lost), Vec::new());
    drop(other);
    let second = turn.try_recv().unwrap();
    assert_eq!(second.work().memory_bytes, 2);
    let mut turn = second.finish_and_turn(Err(JobError::Lost), Vec::new());
    let place = queue.enter(Lane::Cheap, job(4, Some(third))).ok().unwrap();
    assert!(turn.try_recv().is_err());
    assert!(place.goes_at.unwrap() < Instant::now() + Duration::from_millis(2));
    let _last = queue.enter(Lane::Cheap, job(5, Some(fourth))).ok().unwrap();
    assert_eq!(turn.try_recv().unwrap().work().memory_bytes, 4);
}

#[test]
fn a_full_queue_waits_for_nobody() {
    let queue = admission(1, 1_000);
    let coming: Vec<_> = (0..3).map(|_| queue.expect(&1)).collect();
    let mut turn = queue.turn(None);
    let mut enter = coming.into_iter().map(|coming| queue.enter(Lane::Cheap, Work { coming: Some(coming), ..work(1) }));
    let _first = enter.next().unwrap().ok().unwrap();
    assert!(turn.try_recv().is_err());
    let _second = enter.next().unwrap().ok().unwrap();
    assert!(turn.try_recv().is_ok());
    assert_eq!(enter.next().unwrap().err(), Some(JobError::QueueFull));
}

#[tokio::test]
async fn nobody_waits_long_for_one_that_does_not_come() {
    let queue = admission(100, 1_000);
    let (first, _late) = (queue.expect(&1), queue.expect(&1));
    let mut turn = queue.turn(None);
    let place = queue.enter(Lane::Cheap, Work { coming: Some(first), ..work(1) }).ok().unwrap();
    assert!(turn.try_recv().is_err());
    let answer = tokio::spawn(place.answer(std::future::pending()));
    let granted = tokio::time::timeout(Duration::from_secs(5), turn).await.unwrap().unwrap();
    granted.finish(Err(JobError::Lost));
    assert_eq!(answer.await.unwrap().unwrap_err(), JobError::Lost);
}
