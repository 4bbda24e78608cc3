"""Small made-up trees, and what scripts/floors.py must say of each."""
import pathlib
import sys
import tempfile


def tried():
    """Small trees, and what must be said of each: words of every fault, in order."""
    floors = "low\nmid\nhigh\nlib\n"
    roots = "mod low; mod mid; mod high;"

    def tree(**files):
        named = {k.replace("__", "/") + (".rs" if k != "FLOORS" else ""): v for k, v in files.items()}
        return {**{"FLOORS": floors, "lib.rs": roots, "low.rs": "pub struct L;", "mid.rs": "", "high.rs": ""}, **named}

    up = ["src/low.rs imports", "src/high.rs, which runs up"]
    yield "imports that run down", tree(high="use crate::low::L; use crate::mid;"), []
    yield "an import that runs up", tree(low="use crate::high::H;", high="pub struct H;"), [up]
    yield "a path in code", tree(low="fn f() { crate::high::h(); }", high="pub fn h() {}"), [up]
    yield "a use inside a function", tree(low="fn f() { use crate::high::h; h() }", high="pub fn h() {}"), [up]
    yield "a use tree", tree(low="use {crate::{mid::{self as m}, high::{a, b as c}}};"), [
        up, ["src/low.rs imports", "src/mid.rs"]]
    yield "a name imported as another", tree(
        low="use crate::mid as m; fn f() { m::x::g() }", mid="pub mod x;", mid__x=""), [
        ["src/low.rs", "src/mid.rs, which runs up"], ["src/low.rs imports m::x::g", "src/mid/x.rs, which runs up"]]
    yield "a neighbour", {**tree(mid="use crate::high;"), "FLOORS": "low\nmid high\nlib\n"}, [["src/mid.rs", "src/high.rs"]]
    yield "a name passed on", tree(low="use crate::mid::H;", mid="pub use crate::high::H;", high="pub struct H;"), [
        up, ["src/mid.rs imports", "src/high.rs, which runs up"]]
    yield "a name passed on under another", tree(low="use crate::mid::M;", mid="pub(crate) use crate::high::H as M;"), [
        up, ["src/mid.rs", "src/high.rs"]]
    yield "names passed on in bulk", tree(
        low="use crate::mid::*; fn f(h: H) {}", mid="pub use crate::high::*;", high="pub struct H;"), [
        ["src/low.rs", "src/high.rs"], ["src/low.rs", "src/mid.rs"], ["src/mid.rs", "src/high.rs"]]
    yield "the root's names are followed", tree(high="use crate::L; use crate::inner::all::L as A;", **{
        "lib": roots + "pub use low::L; pub mod inner { pub mod all { pub use crate::low::*; } }"}), []
    yield "the root's own names", tree(high="use crate::R;", lib=roots + "pub struct R;"), [
        ["src/high.rs", "src/lib.rs, which runs up"]]
    yield "a macro's path from the root", tree(low="macro_rules! m { () => { $crate::high::h() } }"), [up]
    yield "a macro's other paths are its callers'", tree(
        low="macro_rules! m { () => { super::high::h() } } mod inner { fn f() { m!() } }", high=""), []
    yield "a macro's path where it is called", tree(low="macro_rules! m { () => { super::high::h() } } fn f() { m!() }"), [up]
    yield "an attribute", tree(low="#[serde(with = \"crate::high\")] struct S;"), [up]
    yield "a cfg", tree(low="#[cfg(not(test))] use crate::high::h;"), [up]
    yield "an attribute's path", tree(low="#[cfg_attr(x, crate::high::mark)] struct S;"), [up]
    yield "tests alone", tree(low="""
        #[cfg(test)] use crate::high::h;
        struct S { #[cfg(test)] a: crate::high::H, b: u8 }
        #[cfg(all(test, unix))] fn f() -> [u8; 2] { crate::high::h() }
        #[cfg(test)] #[path = "low_tests.rs"] mod tests;
        #[cfg(test)] mod more { use crate::high::*; mod deep; }""", low_tests="use crate::high;", low__more__deep="use crate::high;"), []
    yield "behind tests", tree(low="#[cfg(test)] mod tests { fn f() { \"}\"; '{'; } } use crate::high::h;"), [up]
    yield "comments, texts and visibilities", tree(low="""
        //! crate::high::h
        /* use crate::high; /* */ use crate::high; */
        pub(in crate::high) fn f<'a>(x: &'a str) -> char { r#"" crate::high::h(); "#; '"'; b'\\''; "\\" crate::high::h()"; 'a' }
        fn g() -> impl Fn() + use<> { ::high::f; <L>::high::x; a.high::<L>() }"""), []
    ring = ["a circle: src/mid/a.rs, src/mid/b.rs", "src/mid/a.rs imports", "of src/mid/b.rs"]
    yield "a circle", tree(mid="mod a; mod b;", mid__a="use super::b::B;", mid__b="use super::a::A;"), [ring]
    yield "a circle through a name passed on", tree(
        mid="mod a; mod b; pub use a::A; pub use b::B;", mid__a="use super::B; pub struct A;",
        mid__b="use crate::mid::A; pub struct B;"), [ring]
    yield "a circle through a name taken from a parent", tree(
        mid="mod a; use crate::low::L; fn f() { a::g() }", mid__a="use super::L; pub fn g() {}"), [
        ["a circle: src/mid.rs, src/mid/a.rs"]]
    yield "a name that a parent imports for itself", tree(mid="mod a; use crate::high::H;", mid__a="use super::H;"), [
        ["src/mid.rs imports", "src/high.rs"], ["src/mid/a.rs imports super::H", "src/high.rs"]]
    yield "a crate of a module's name", tree(
        mid="mod a; fn f() { ::a::g(); <T>::a::g() }", mid__a="use super::X;", low=""), []
    yield "a visibility in a macro", tree(low="macro_rules! m { () => { pub(in crate::high) fn f() {} } }"), []
    yield "a circle through all of a parent", tree(mid="mod a; fn f() { a::g() }", mid__a="use super::*; pub fn g() {}"), [
        ["a circle: src/mid.rs, src/mid/a.rs"]]
    yield "files that cfg chooses between", tree(
        mid="#[cfg_attr(unix, path = \"other.rs\")] mod a; #[cfg(x)] mod c;", mid__a="", other="use crate::high;",
        mid__c="use crate::high;", high="", FLOORS="low\nother\nmid\nhigh\nlib\n"), [
        ["src/other.rs", "src/high.rs"], ["src/mid/c.rs", "src/high.rs"]]
    yield "a room without a floor", {**tree(), "FLOORS": "low\nmid\nlib\n"}, [["src/high.rs", "no floor"]]
    yield "a room with two", {**tree(), "FLOORS": floors + "low\n"}, [["low has two floors"], None]
    yield "a file of no module", tree(mid__lost=""), [["src/mid/lost.rs: no module"]]
    yield "macros passed on by place", tree(lib="#[macro_use] mod low; mod mid; mod high;"), [["src/lib.rs: macro_use"]]
    yield "a program", tree(main="mod cli; use sftmix::internal::x;", cli__mod="mod a; use sftmix::low::L;", cli__a="fn f() { sftmix::mid::g() }"), []
    yield "a program with a circle", tree(main="mod cli;", cli__mod="mod a; fn f() {} fn m() { a::g() }", cli__a="use crate::cli::f;"), [
        ["a circle: src/cli/a.rs, src/cli/mod.rs"]]
    yield "a program that takes a file of the library", tree(main="mod cli; mod low;", cli__mod="use crate::low::L;"), [
        ["src/low.rs is of the library"]]
    yield "a library that takes a file of the program", tree(
        main="mod cli;", cli__mod="", lib=roots + "mod cli;"), [["src/cli/mod.rs is of the program"]]


def self_test(check):
    """Judges every tree by `check`, which gives faults and a line of figures."""
    wrong = 0
    for name, files, expected in tried():
        with tempfile.TemporaryDirectory() as folder:
            src = pathlib.Path(folder) / "src"
            for file, text in files.items():
                path = src / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            faults, _ = check(src)
        open_ended = None in expected
        left = list(faults)
        for words in filter(None, expected):
            found = [f for f in left if all(word in f for word in words)]
            if not found:
                break
            left.remove(found[0])
        else:
            if open_ended or not left:
                continue
        wrong += 1
        print(f"{name}: expected {expected}, found {faults}", file=sys.stderr)
    print(f"self-test: {sum(1 for _ in tried())} trees, {wrong} judged wrongly")
    return 1 if wrong else 0
