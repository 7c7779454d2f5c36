"""Patterns of a bar that the musicians of the demo corpus play, one character per sixteenth."""

# X is an accent, x a stroke, o a ghost note.
GROOVES = {
    "rock": {"kick": "X.......X.x.....", "snare": "....X..o....X...", "hat": "X.x.X.x.X.x.X.x."},
    "punk": {"kick": "X...X...X...X...", "snare": "..X...X...X...X.", "ride": "x.x.x.x.x.x.x.x."},
    "floor": {"kick": "X...X...X...X...", "snare": "....x.......x...", "hat": "xo.oxo.oxo.oxo.o",
              "open": "..x...x...x...x."},
    "techno": {"kick": "X...X...X...X...", "snare": "............x...", "hat": "..x...x...x...x."},
    "electro": {"kick": "X..X....X.x..X..", "snare": "....X.......X...", "hat": "x.xxx.x.x.xxx.x."},
    "funk": {"kick": "X..x..x...x..x..", "snare": "....X..o.o..X..o", "hat": "XoxoXoxoXoxoXo.o",
             "open": "..............x."},
    "half": {"kick": "X.....x....x....", "snare": "........X.......", "hat": "x.xox.xxx.xox.oo"},
    "trap": {"kick": "X......x..X.....", "snare": "........X.......", "hat": "x.x.xxx.x.x.xxxx"},
    "hop": {"kick": "X.x....o..X.....", "snare": "....X.......X..o", "hat": "x.x.x.xox.x.x.x."},
    "soul": {"kick": "X.....x.X.x.....", "snare": "x...X...x...X..o", "hat": "x.x.x.x.x.x.x.x."},
    "one drop": {"kick": "........X.......", "block": "........X.......",
                 "hat": "x.x.x.x.x.x.x.x."},
    "bossa": {"kick": "X..xX..xX..xX..x", "block": "x..x..x...x..x..", "ride": "x.o.x.o.x.o.x.o."},
    "train": {"kick": "X...x...X...x...", "snare": "ooXoooXoooXoooXx", "ride": "x.......x......."},
    "break": {"kick": "X.x.......xx....", "snare": "....X..o.o..X..o", "ride": "X.x.X.x.X.x.X.x."},
    "toms": {"kick": "X...x...X...x...", "low": "x..x..x.x..x..x.", "snare": "............X..."},
    "waltz": {"kick": "X.........o.", "snare": "....x...x...", "ride": "x...x.o.x.o."},
    "lilt": {"kick": "X.........x.", "snare": "......X...o.", "hat": "X.x.x.X.x.xo"},
}  # fmt: skip
"""Name -> drum -> pattern."""
TEMPOS = {
    "rock": (85, 170), "punk": (140, 182), "floor": (105, 140), "techno": (115, 150),
    "electro": (95, 135), "funk": (85, 125), "half": (62, 182), "trap": (62, 160), "hop": (70, 110),
    "soul": (65, 120), "one drop": (65, 100), "bossa": (70, 150), "train": (95, 160),
    "break": (90, 182), "toms": (70, 160), "waltz": (80, 182), "lilt": (62, 130),
}  # fmt: skip
"""Groove -> lowest and highest tempo, quarter notes per minute."""
BASS_LINES = {
    "eighths": "1-1-1-1-1-1-1-a-",
    "roots": "1-----1-1---5-a-",
    "octaves": "1-8-1-8-1-8-1-a-",
    "walking": "1---3---5---a---",
    "funky": "1..1..8.1.5..1a-",
    "pushed": "1--1--1---5-3-a-",
    "long": "1-----------5---",
    "drone": "1---------------",
    "dub": "1---..3-5---..a-",
    "offbeat": "..11..11..11..1a",
    "sixteenths": "11111111111111aa",
    "sparse": "1-..........5-..",
    "stop": "1-1.....1.8.....",
    "three": "1-------5-a-",
    "six": "1---1-5---a-",
    "dotted": "1-----------",
}
"""1, 3, 5 and 8 are chord tones, a leads to the next root, - holds, . rests."""
COMPING = {
    "held": "x---------------",
    "halves": "x-------x-------",
    "offbeats": "..x-..x-..x-..x-",
    "skank": "....x.......x...",
    "stabs": "x..x..x...x.x...",
    "pushed": "x-----x---x-----",
    "strummed": "x---x-x-x-x-x-x-",
    "chugging": "x-x-x-x-x-x-x-x-",
    "picked": "0-2-1-3-2-1-3-2-",
    "rippling": "0123210301232103",
    "pulsing": "0.10.10.20.20.1.",
    "riff": "0-..0-3-2-..1-..",
}
"""x is the full chord, a digit one of its tones."""
