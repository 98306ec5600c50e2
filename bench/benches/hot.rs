//! Times of the small pieces of the hot path: `cargo bench -p bench`, or with a part of a name
//! behind `--`.

use criterion::{Criterion, criterion_group, criterion_main};

fn hot(criterion: &mut Criterion) {
    for case in bench::CASES {
        let mut work = (case.make)();
        criterion.bench_function(case.name, |bencher| bencher.iter(&mut work));
    }
}

criterion_group!(benches, hot);
criterion_main!(benches);
