# Ratios to the base of each case; titles and colours are those of the stores.
set terminal svg noenhanced size 1200,480 font 'sans-serif,11' background 'white'
set output 'plot.svg'
set style data histograms
set style histogram errorbars gap 1 linewidth 1
set style fill solid 0.85 border -1
set boxwidth 0.9
set xtics rotate by -30 scale 0
set ylabel 'rate, as a share of the base'
set yrange [0:*<3]	# what is above is cut off
set ytics 0.25 nomirror
set grid ytics lc rgb '#cccccc'
set key outside top center horizontal reverse Left
set arrow from graph 0, first 1 to graph 1, first 1 nohead lw 1.5 lc rgb '#444444' front
plot for [i = 1:words(titles)] 'plot.dat' index i - 1 using 1:2:3:xtic(4) title word(titles, i) lc rgb word(colours, i)
