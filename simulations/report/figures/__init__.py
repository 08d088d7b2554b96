"""Draw the figures, for wide and for narrow screens.

| module     | what it is for                                                                 |
|------------|--------------------------------------------------------------------------------|
| canvas     | style, colours, SVG and PNG                                                    |
| curves     | utility against ε, ε against releases, ROC curves                              |
| trade_offs | groups, rare items and calibration over NDCG                                   |
| rows       | dots and bars in rows: models, organisations, groups, observers                |
| frontier   | the points and lines of utility against ε                                      |
"""
