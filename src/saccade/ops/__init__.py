"""Operations for which the plain form costs more memory or time than the algebra asks for."""
