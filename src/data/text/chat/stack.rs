//! Room for what a template nests. The engine writes, compares and drops nested lists by recursion, some 450 bytes a level,
//! and a level costs a template a handful of steps: as deep as its fuel lets it nest, the stack of a thread must hold.

use std::cell::Cell;
use std::thread::Builder;

/// Bytes of stack for a rendering. Addresses alone: pages that are never touched cost nothing.
pub(crate) const STACK: usize = if cfg!(target_pointer_width = "64") { 512 << 20 } else { 32 << 20 };

thread_local! {
    static HAS_ROOM: Cell<bool> = const { Cell::new(false) };
}

/// Says that this thread was begun with [`STACK`].
pub(crate) fn has_room() {
    HAS_ROOM.set(true);
}

/// Does work where there is room: here, or on a thread for it alone.
pub(super) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    if HAS_ROOM.get() {
        return Ok(work());
    }
    std::thread::scope(|scope| {
        let thread = Builder::new().name("template".into()).stack_size(STACK);
        let running = thread.spawn_scoped(scope, || {
            has_room();
            work()
        });
        let running = running.map_err(|e| format!("the chat template: no thread for it: {e}"))?;
        running.join().map_err(|panic| format!("the chat template: {}", crate::error::panic_text(&*panic)))
    })
}

#[cfg(test)]
mod tests {
    use crate::data::text::chat::{ChatTemplate, Conversation, RenderOptions, SpecialTokens};

    #[test]
    fn nesting_without_end_is_an_error_and_not_the_end_of_the_process() {
        let nested = "{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% for j in range(N) %}\
                      {% set ns.l = [ns.l] %}{% endfor %}{% endfor %}";
        let render = |template: String| {
            let template = ChatTemplate::from_text("t", template, SpecialTokens::default()).unwrap();
            template.render(&Conversation::default(), &RenderOptions::default()).map_err(|e| e.to_string())
        };
        // As deep as fuel allows: dropped, written, compared.
        assert_eq!(render(nested.replace('N', "700") + "x").unwrap().text, "x");
        for then in ["{{ ns.l }}", "{{ ns.l ~ '' }}", "{{ ns.l == [ns.l] }}", "{{ ns.l|tojson }}", "{{ ns.l|string }}"]
        {
            let _ = render(nested.replace('N', "700") + then);
        }
        let e = render(nested.replace('N', "2000")).unwrap_err();
        assert!(e.contains("million steps"), "{e}");
        let e = render(nested.replace('N', "1") + "{{ ns.l|tojson }}").unwrap_err();
        assert!(e.contains("tojson: nested more than 128 deep"), "{e}");
    }
}
