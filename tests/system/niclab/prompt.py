# SPDX-License-Identifier: BSD-3-Clause
"""dvmqd's prompt on the console of the lab's machine."""
import re

ESCAPE = r"(?:\x1b(?:\[[0-9;]*)?[A-Za-z])*"  # of a terminal: moves the cursor, clears the line


class Prompt:
    def __init__(self, lab):
        self.lab = lab

    def command(self, text):
        """
        Types a command; what dvmqd printed until its next prompt. A message that comes while the command is echoed takes
        the line away, and it is drawn again below: only one that ends has been read whole.
        """
        self.lab.type(text)
        self.lab.wait(ESCAPE.join(map(re.escape, text)) + ESCAPE + r"\n")
        begin = self.lab.pos
        self.lab.wait(r"dvmqd> ", 60)
        return self.lab.text[begin:self.lab.pos]
