"""Growth of resistance where the ageing study of a cell publishes only capacity.

Resistance grows in proportion to the capacity lost (Schuster et al. 2016, doi:10.1016/j.jpowsour.2015.11.096).  The
slope is that of the calendar ageing of NMC cells at 25 degC between 50 and 80 % charge in Schmalstieg et al. 2014
(doi:10.1016/j.jpowsour.2014.02.012), whose losses of capacity and growth of resistance follow the same power of time:

    10 ** 5 * (5.270 * U - 16.32) * exp(-5986 / T)  /  (10 ** 6 * (7.543 * U - 23.75) * exp(-6976 / T))  =  2.1
"""

RESISTANCE_PER_LOSS = 2.1
