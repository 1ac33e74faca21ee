"""Operations with a lower cost in memory or time than the plain form of their formula."""
