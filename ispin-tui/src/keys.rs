//! What each key does: the one table that the dashboard obeys and that `?` shows.

/// A key press.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// Ctrl and a letter.
    Ctrl(char),
    /// Enter.
    Enter,
    /// Escape.
    Esc,
    /// Tab.
    Tab,
    /// Shift and Tab.
    BackTab,
    /// Backspace.
    Backspace,
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// Arrow left.
    Left,
    /// Arrow right.
    Right,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// Home.
    Home,
    /// End.
    End,
}

/// What a key press asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave.
    Quit,
    /// Open or close the list of keys.
    Help,
    /// The next panel.
    NextPanel,
    /// The panel before.
    PreviousPanel,
    /// The panel with this number, from 0.
    Panel(usize),
    /// Rows to move the selection by.
    Move(isize),
    /// Pages to move the selection by.
    Page(isize),
    /// The first row.
    First,
    /// The last row.
    Last,
    /// Hold the picture still, or let it go on.
    Pause,
    /// Type a filter.
    Filter,
    /// The next order of rows.
    Sort,
    /// More pictures a second.
    Faster,
    /// Fewer pictures a second.
    Slower,
    /// Open the selected incident.
    Open,
    /// Close what is open; with nothing open, clear the filter.
    Close,
    /// Mark the baseline.
    Baseline,
    /// Forget the baseline.
    ForgetBaseline,
    /// Add a character to the filter that is being typed.
    Type(char),
    /// Take the last character of the filter away.
    Erase,
    /// Keep the filter.
    Accept,
    /// The filter as it was before.
    Cancel,
}

/// A line of the key map.
pub struct Binding {
    /// Keys that do it.
    pub keys: &'static [Key],
    /// What they do.
    pub action: Action,
    /// As shown in the list of keys; lines with an empty text belong to the line before.
    pub shown: &'static str,
    /// What they do, for people.
    pub help: &'static str,
}

const fn bind(keys: &'static [Key], action: Action, shown: &'static str, help: &'static str) -> Binding {
    Binding { keys, action, shown, help }
}

/// The key map.
pub const BINDINGS: &[Binding] = &[
    bind(&[Key::Char('?')], Action::Help, "?", "show or hide this list"),
    bind(&[Key::Char('q'), Key::Ctrl('c')], Action::Quit, "q, Ctrl-C", "quit"),
    bind(
        &[Key::Tab, Key::Right],
        Action::NextPanel,
        "Tab, Shift-Tab",
        "next panel, panel before (also → and ←)",
    ),
    bind(&[Key::BackTab, Key::Left], Action::PreviousPanel, "", ""),
    bind(&[Key::Char('1')], Action::Panel(0), "1 to 5", "vCPUs, hold and wait, locks, callers, incidents"),
    bind(&[Key::Char('2')], Action::Panel(1), "", ""),
    bind(&[Key::Char('3')], Action::Panel(2), "", ""),
    bind(&[Key::Char('4')], Action::Panel(3), "", ""),
    bind(&[Key::Char('5')], Action::Panel(4), "", ""),
    bind(&[Key::Char('j'), Key::Down], Action::Move(1), "j, k, ↓, ↑", "next row, row before"),
    bind(&[Key::Char('k'), Key::Up], Action::Move(-1), "", ""),
    bind(&[Key::PageDown], Action::Page(1), "PgDn, PgUp", "ten rows at a time"),
    bind(&[Key::PageUp], Action::Page(-1), "", ""),
    bind(&[Key::Char('g'), Key::Home], Action::First, "g, G, Home, End", "first row, last row"),
    bind(&[Key::Char('G'), Key::End], Action::Last, "", ""),
    bind(&[Key::Enter], Action::Open, "Enter", "open the selected incident as a timeline"),
    bind(&[Key::Esc], Action::Close, "Esc", "close what is open, else clear the filter"),
    bind(&[Key::Char(' ')], Action::Pause, "Space", "hold the picture still; counting goes on"),
    bind(&[Key::Char('/')], Action::Filter, "/", "show only rows whose names contain a text"),
    bind(&[Key::Char('s')], Action::Sort, "s", "sort the panel's rows by the next column"),
    bind(&[Key::Char('+'), Key::Char('=')], Action::Faster, "+, -", "update more often, less often"),
    bind(&[Key::Char('-')], Action::Slower, "", ""),
    bind(
        &[Key::Char('m')],
        Action::Baseline,
        "m",
        "mark the baseline: show ratios to this run's means so far",
    ),
    bind(&[Key::Char('M')], Action::ForgetBaseline, "M", "forget the baseline"),
];

/// What `key` asks for; `typing` = a filter is being typed.
pub fn action(key: Key, typing: bool) -> Option<Action> {
    if typing {
        return match key {
            Key::Char(c) => Some(Action::Type(c)),
            Key::Backspace => Some(Action::Erase),
            Key::Enter => Some(Action::Accept),
            Key::Esc => Some(Action::Cancel),
            Key::Ctrl('c') => Some(Action::Quit),
            _ => None,
        };
    }
    BINDINGS.iter().find(|binding| binding.keys.contains(&key)).map(|binding| binding.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_bound_twice() {
        let keys: Vec<_> = BINDINGS.iter().flat_map(|binding| binding.keys).collect();
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "{key:?}");
        }
    }

    #[test]
    fn every_action_is_reachable_and_told() {
        assert!(!BINDINGS[0].shown.is_empty());
        for binding in BINDINGS {
            assert_eq!(binding.shown.is_empty(), binding.help.is_empty(), "{:?}", binding.action);
            for key in binding.keys {
                assert_eq!(action(*key, false), Some(binding.action));
            }
        }
    }

    #[test]
    fn while_a_filter_is_typed_letters_are_text() {
        assert_eq!(action(Key::Char('q'), true), Some(Action::Type('q')));
        assert_eq!(action(Key::Char('/'), true), Some(Action::Type('/')));
        assert_eq!(action(Key::Ctrl('c'), true), Some(Action::Quit));
        assert_eq!(action(Key::Esc, true), Some(Action::Cancel));
        assert_eq!(action(Key::Tab, true), None);
    }
}
