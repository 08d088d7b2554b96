"""One HTML page about a run, an audit or a sweep, for a reader who knows nothing else.

| room or module | what it is for                                                             |
|----------------|----------------------------------------------------------------------------|
| command        | `sotto-lab report`                                                         |
| reading        | read and check the files                                                   |
| numbers        | compute what is shown                                                      |
| figures        | draw it                                                                    |
| text           | say it                                                                     |
| sections       | put figure, sentence and table together                                    |
| pages          | the page of a run, of an audit or of a sweep                               |
| page           | what a page holds, and its HTML                                            |
| models         | label, colour and marker of each model                                     |
"""
