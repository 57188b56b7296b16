"""What a command says of itself while it runs, on stderr: a view in a terminal, plain lines everywhere else.

- `progress`: what the rest of the kit calls;
- `state`: what is known of the work: steps, task, losses, memory;
- `lines`: the same as sentences of a log;
- `frame`: the same as rows of the view;
- `screen`: draws the view, from a thread of its own;
- `downloads`: bytes from the hub;
- `capture`: what others write to the terminal meanwhile;
- `memory`: what this process holds.
"""

from lowvram_ft.progress.memory import Memory
from lowvram_ft.progress.progress import PLAIN_EVERY_S, Progress
from lowvram_ft.progress.state import clock

__all__ = ["PLAIN_EVERY_S", "Memory", "Progress", "clock"]
