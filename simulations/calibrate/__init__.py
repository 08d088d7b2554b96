"""What a privacy budget allows, before any data is read.

| module            | what it is for                                                          |
|-------------------|-------------------------------------------------------------------------|
| command           | `sotto-lab calibrate`                                                   |
| numbers           | noise over signal of each noised sum, and rounds that fit               |
| print_calibration | both as tables or JSON                                                  |
| plot              | the figure of both                                                      |
"""
